"""The agents as graphs of one node. Also takes the pause out of the peer's queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from langgraph.config import get_stream_writer  # type: ignore[import-not-found]
from langgraph.graph import END, START, MessagesState, StateGraph  # type: ignore[import-not-found]
from langgraph_runtime_inmem.ops import Runs  # type: ignore[import-not-found]

from benchmarks.workloads import EVENTS, event

PAUSE = 0.002

Update = dict[str, Any]


class State(MessagesState):  # type: ignore[misc]
    """A conversation, and for how long to sleep."""

    seconds: float


def _graph(node: Callable[[State], Any]) -> Any:
    graph = StateGraph(State)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    return graph.compile()


async def _echo(state: State) -> Update:
    return {"messages": [{"role": "assistant", "content": "hello"}]}


def _emit(count: int) -> Update:
    write = get_stream_writer()
    for index in range(count):
        write(event(index))
    return {}


async def _stream(state: State) -> Update:
    return _emit(EVENTS)


async def _start(state: State) -> Update:
    return _emit(1)


async def _sleep(state: State) -> Update:
    await asyncio.sleep(state["seconds"])
    return {}


echo, streamer, starter, sleeper = (_graph(node) for node in (_echo, _stream, _start, _sleep))


def _hurry(take: Callable[[bool, int], AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    """Lets an idle queue look for runs every 2 ms; as shipped it sleeps for half a second.

    That pause says nothing about what the peer can do, and would be all that one measured.
    """

    async def next_runs(wait: bool, limit: int = 1) -> AsyncIterator[Any]:
        if wait:
            await asyncio.sleep(PAUSE)
        async for run in take(False, limit):
            yield run

    return next_runs


Runs.next = staticmethod(_hurry(Runs.next))
