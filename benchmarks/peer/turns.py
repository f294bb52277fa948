"""Stores a conversation by the peer's checkpoints in SQLite; prints the bytes that it takes.

Each turn is saved once, at its end (`durability="exit"`): a third of what the peer saves by itself.
"""

from __future__ import annotations

import argparse
import json
from typing import Annotated, Any, TypedDict

from langgraph.channels.delta import DeltaChannel  # type: ignore[import-not-found]
from langgraph.checkpoint.sqlite import SqliteSaver  # type: ignore[import-not-found]
from langgraph.graph import END, START, MessagesState, StateGraph  # type: ignore[import-not-found]
from langgraph.graph.message import (  # type: ignore[import-not-found]
    _messages_delta_reducer as append,
)

from benchmarks.workloads import ANSWER, QUESTION

CONFIG = {"configurable": {"thread_id": "thread"}}


class DeltaState(TypedDict):
    """Messages as the peer can keep them since lately: what a turn adds, and all now and then."""

    messages: Annotated[list[Any], DeltaChannel(append)]


def answer(state: Any) -> dict[str, Any]:
    return {"messages": [{"role": "assistant", "content": ANSWER}]}


def size(saver: Any) -> int:
    sql = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
    return int(saver.conn.execute(sql).fetchone()[0])


def store(path: str, schema: Any, marks: list[int]) -> list[int]:
    graph = StateGraph(schema)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    question = {"messages": [{"role": "user", "content": QUESTION}]}
    sizes = {}
    with SqliteSaver.from_conn_string(path) as saver:
        saver.setup()
        sizes[0] = size(saver)
        agent = graph.compile(checkpointer=saver)
        for turn in range(1, marks[-1] + 1):
            agent.invoke(question, CONFIG, durability="exit")
            if turn in marks:
                sizes[turn] = size(saver)
    return [sizes[mark] - sizes[0] for mark in marks]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.peer.turns", description=__doc__)
    parser.add_argument("path")
    parser.add_argument("marks", nargs="+", type=int)
    parser.add_argument("--delta", action="store_true")
    arguments = parser.parse_args()
    schema = DeltaState if arguments.delta else MessagesState
    print(json.dumps(store(arguments.path, schema, arguments.marks)))


if __name__ == "__main__":
    main()
