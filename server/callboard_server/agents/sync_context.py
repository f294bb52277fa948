"""The context for plain functions, which run in threads of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from callboard.v1.message_pb2 import (
    Message,
)
from callboard.v1.run_pb2 import Run

if TYPE_CHECKING:
    pass

from callboard_server.agents.context import Context

T = TypeVar("T")


class Stopped(BaseException):
    """Raised in a thread whose run was asked to stop. No Exception: code must not swallow it."""


class SyncContext:
    """A run as a plain function sees it: the same as `Context`, without await."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._loop = asyncio.get_running_loop()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if self._ctx.stopping:
            work.close()
            raise Stopped
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @property
    def run(self) -> Run:
        """The run, as it was when it was claimed."""
        return self._ctx.run

    @property
    def config(self) -> dict[str, object]:
        """The configuration in effect."""
        return self._ctx.config

    @property
    def workspace(self) -> Path:
        """A directory that the agents of this session share."""
        return self._ctx.workspace

    def check_cancelled(self) -> None:
        """Ends the function here if the run was asked to stop. Call it now and then."""
        if self._ctx.stopping:
            raise Stopped

    def messages(self) -> list[Message]:
        """Returns the messages of the conversation, oldest first."""
        return self._wait(self._ctx.messages())

    def input(self) -> str:
        """Returns the text of the last message that the run was given; see `Context.input`."""
        return self._wait(self._ctx.input())

    def say(self, text: str) -> Message:
        """Adds a message of the assistant to the thread."""
        return self._wait(self._ctx.say(text))

    def values(self) -> dict[str, Any]:
        """Returns the thread's values."""
        return self._wait(self._ctx.values())

    def merge_values(self, patch: Mapping[str, object]) -> dict[str, Any]:
        """Merges a patch into the thread's values; see `Context.merge_values`."""
        return self._wait(self._ctx.merge_values(patch))

    def emit(self, name: str, data: object = None) -> None:
        """Writes an event of the agent's own; see `Context.emit`."""
        self._wait(self._ctx.emit(name, data))

    def progress(
        self, message: str, *, current: int | None = None, total: int | None = None
    ) -> None:
        """Says how far the run is; see `Context.progress`."""
        self._wait(self._ctx.progress(message, current=current, total=total))

    def step(self, name: str, function: Callable[..., T], *arguments: object) -> T:
        """Does a piece of work once, also over crashes; see `Context.step`."""
        returned: T = self._wait(self._ctx.step(name, function, *arguments))
        return returned

    def sleep(self, seconds: float) -> None:
        """Waits without holding a slot; see `Context.sleep`."""
        self._wait(self._ctx.sleep(seconds))

    def ask(
        self,
        question: str,
        *,
        schema: Mapping[str, object] | None = None,
        deadline: float | None = None,
    ) -> Any:
        """Asks somebody outside and waits for the answer; see `Context.ask`."""
        return self._wait(self._ctx.ask(question, schema=schema, deadline=deadline))
