"""Threads for code that is not async.

Each call has a thread of its own: code that takes long, or does not stop when it should, keeps no
other from running and does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs a function in a new thread and returns its result.

    When the caller is cancelled it goes on at once; the thread ends when the function does.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(result)  # type: ignore[arg-type]
        else:
            answer.set_exception(error)

    def run() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = context.run(function, *args, **kwargs)
        except StopIteration:
            # No future can carry it.
            error = RuntimeError("the function raised StopIteration")
        except BaseException as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            # The loop has ended: nobody waits any more.
            return

    name = getattr(function, "__name__", "agent")
    threading.Thread(target=run, name=f"callboard-{name}", daemon=True).start()
    return await answer
