"""The names that the tools go by: Callboard's own, and those of a peer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from callboard._states import TERMINAL_STATES
from callboard.v1.lifecycle_pb2 import RunState

NamesName: TypeAlias = Literal["callboard", "deepagents"]

_STATES = {state: RunState.Name(state).removeprefix("RUN_STATE_") for state in RunState.values()}


@dataclass(frozen=True, slots=True)
class Dialect:
    """What tools, their arguments and what they tell are called."""

    launch: str
    check: str
    update: str
    cancel: str
    list: str
    agent: str
    """The argument that says who does the work."""
    task: str
    """The argument that says what to do."""
    job_id: str
    """The argument, and the entry of an answer, with the id of a job."""
    instructions: str
    """The argument with new instructions."""
    filter: str
    """The argument that says which jobs to list."""
    state: str
    """The entry of an answer that says how a job stands."""
    states: Mapping[RunState.ValueType, str]
    """What each state is called."""
    filters: Mapping[str, frozenset[RunState.ValueType]]
    """Which states each choice of jobs to list means; all of them where none is named."""


_PEER_STATES = {
    RunState.RUN_STATE_QUEUED: "pending",
    RunState.RUN_STATE_RUNNING: "running",
    RunState.RUN_STATE_WAITING: "running",
    RunState.RUN_STATE_REQUIRES_ACTION: "waiting",
    RunState.RUN_STATE_SUCCEEDED: "success",
    RunState.RUN_STATE_FAILED: "error",
    RunState.RUN_STATE_CANCELLED: "cancelled",
    RunState.RUN_STATE_SUPERSEDED: "cancelled",
    RunState.RUN_STATE_TIMED_OUT: "timeout",
}

DIALECTS: Mapping[str, Dialect] = {
    "callboard": Dialect(
        launch="launch_job",
        check="check_job",
        update="update_job",
        cancel="cancel_job",
        list="list_jobs",
        agent="agent",
        task="task",
        job_id="job_id",
        instructions="instructions",
        filter="state",
        state="state",
        states=_STATES,
        filters={
            "all": frozenset(),
            "active": frozenset(_STATES) - TERMINAL_STATES - {RunState.RUN_STATE_UNSPECIFIED},
            "finished": TERMINAL_STATES,
        },
    ),
    # As the tools of deepagents 0.7 are called.
    "deepagents": Dialect(
        launch="start_async_task",
        check="check_async_task",
        update="update_async_task",
        cancel="cancel_async_task",
        list="list_async_tasks",
        agent="subagent_type",
        task="description",
        job_id="task_id",
        instructions="message",
        filter="status_filter",
        state="status",
        states=_PEER_STATES,
        filters={
            "all": frozenset(),
            **{
                word: frozenset(state for state, name in _PEER_STATES.items() if name == word)
                for word in dict.fromkeys(_PEER_STATES.values())
            },
        },
    ),
}


def dialect_of(names: str) -> Dialect:
    """The dialect of a name.

    Raises:
        ValueError: There is none.
    """
    if names not in DIALECTS:
        valid = ", ".join(f'"{name}"' for name in DIALECTS)
        raise ValueError(f"names: {names!r} is not one of {valid}")
    return DIALECTS[names]
