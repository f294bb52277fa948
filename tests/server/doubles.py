"""Stands in for the engine where an agent or a tool is tested alone."""

from __future__ import annotations

from pathlib import Path
from typing import cast
from unittest.mock import Mock
from uuid import uuid4

from google.protobuf.struct_pb2 import Struct

from callboard import AsyncClient
from callboard.v1.event_pb2 import Action, ActionResponse, Event
from callboard.v1.lifecycle_pb2 import WaitingFor
from callboard.v1.message_pb2 import ContentBlock, Message, Role, Text
from callboard.v1.run_pb2 import Delta, Run
from callboard_server.agents.context import Context
from callboard_server.log.recorded import Recorded
from callboard_server.log.view import Others, View
from callboard_server.models.opening import Models


class Crash(BaseException):
    """The process is gone."""


class RecordedWork:
    """Keeps what a run writes, in memory. A second claim of the run gets the same one."""

    def __init__(self, *messages: Message, run: Run | None = None) -> None:
        self.run = run or Run(run_id="run-1", thread_id="thread-1")
        self.messages = list(messages)
        self.deltas: list[tuple[str, int, str]] = []
        self.discarded: list[str] = []
        self.events: list[Event] = []
        """What was written about failed model calls."""
        self.was_recorded = Recorded()
        self.answers: dict[str, ActionResponse] = {}
        """What is answered to an action about a tool call, by tool_call_id."""
        self.asked: list[Action] = []
        self.waited_for: list[WaitingFor] = []
        self.branches = 1
        self.writes_left: int | None = None
        """How many more writes succeed before a crash."""

    def _write(self) -> None:
        if self.writes_left is not None:
            if self.writes_left == 0:
                raise Crash
            self.writes_left -= 1

    async def commit(self, *events: Event) -> None:
        self._write()
        for event in events:
            self.was_recorded.apply(event)

    async def post(self, event: Event) -> None:
        await self.commit(event)

    async def merge_values(self, patch: Struct) -> Struct:
        return patch

    async def commit_message(self, message: Message) -> Message:
        self._write()
        message.run_id = self.run.run_id
        message.message_id = message.message_id or str(uuid4())
        self.messages.append(message)
        return message

    async def discard_message(self, message_id: str, reason: str, *events: Event) -> None:
        self.events += events
        self.discarded.append(message_id)

    def open_message(self, context_sequence: int) -> str:
        return str(uuid4())

    def write_delta(
        self, message_id: str, index: int, text: str, kind: Delta.Kind.ValueType
    ) -> None:
        self.deltas.append((message_id, index, text))

    async def view(self, others: Others) -> View:
        return View(list(self.messages), len(self.messages))

    async def all_messages(self) -> list[Message]:
        return list(self.messages)

    async def recorded(self) -> Recorded:
        return self.was_recorded

    async def values(self) -> Struct:
        return Struct()

    def now(self) -> float:
        return 0.0

    def branch(self, change: int) -> None:
        self.branches += change

    async def wait(self, waiting_for: WaitingFor, *events: Event) -> None:
        await self.commit(*events)
        self.waited_for.append(waiting_for)

    async def ask(self, action: Action) -> ActionResponse | None:
        self.asked.append(action)
        return self.answers.get(action.tool_call.tool_call_id)


def make_context(work: RecordedWork | None = None, **config: object) -> Context:
    client = cast("AsyncClient", Mock(spec=AsyncClient))
    return Context(
        work or RecordedWork(),
        author="agent",
        config=config,
        assistant_config=Struct(),
        open_client=lambda: client,
        workspace=Path(),
        models=Models(),
    )


def user(text: str, run_id: str = "run-1") -> Message:
    return Message(role=Role.ROLE_USER, run_id=run_id, content=[ContentBlock(text=Text(text=text))])


def text_of(message: Message) -> str:
    return "".join(block.text.text for block in message.content)
