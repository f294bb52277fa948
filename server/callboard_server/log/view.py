"""Views: the conversation of a thread as one of its runs sees it."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from callboard.v1.event_pb2 import StepRecorded, ToolStarted
from callboard.v1.message_pb2 import Message
from callboard_server.log.events import kinds
from callboard_server.log.fold import is_void
from callboard_server.log.records import Record

VIEW_KINDS = kinds(
    "message_added",
    "run_started",
    "run_finished",
    "tool_started",
    "step_recorded",
    "claim_voided",
)
"""The kinds of events from which a view is made."""


@dataclass(slots=True)
class View:
    """What a run sees."""

    messages: list[Message] = field(default_factory=list)
    """The conversation."""
    context_sequence: int = 0
    """The last event of the session that the view takes into account."""
    tools_started: dict[str, ToolStarted] = field(default_factory=dict)
    """Tool calls that the run has started, also under earlier claims, by tool_call_id."""
    steps: dict[tuple[tuple[str, ...], str, int], StepRecorded] = field(default_factory=dict)
    """Steps that the run has recorded, by enclosing steps, name and occurrence."""


def view_of(records: Iterable[Record], run: int, unstarted: Container[int], head: int) -> View:
    """Folds a thread's events into what one run sees.

    The input of a run stands where that run started (or ended, if it never did): whoever worked
    before had not seen it. Inputs of runs that still wait for their start are left out.

    Args:
        records: The thread's events of `VIEW_KINDS`, in order.
        run: Key of the run that looks.
        unstarted: Keys of runs that wait for their first start.
        head: The session's last sequence.
    """
    view = View(context_sequence=head)
    conversation: list[tuple[Record, Message]] = []
    inputs: dict[int, list[tuple[Record, Message]]] = {}
    for record in records:
        event = record.event
        match event.WhichOneof("payload"):
            case "message_added" if record.run is not None and event.claim_epoch == 0:
                inputs.setdefault(record.run, []).append((record, event.message_added.message))
            case "message_added":
                conversation.append((record, event.message_added.message))
            case "run_started" | "run_finished" if record.run is not None:
                conversation += inputs.pop(record.run, [])
            case "claim_voided":
                conversation = [e for e in conversation if not is_void(e[0].event, event)]
            case "tool_started" if record.run == run:
                view.tools_started[event.tool_started.call.tool_call_id] = event.tool_started
            case "step_recorded" if record.run == run:
                view.steps[_step_key(event.step_recorded)] = event.step_recorded
    for key, entries in inputs.items():
        if key not in unstarted:
            conversation += entries
    view.messages = [message for _, message in conversation]
    return view


def _step_key(step: StepRecorded) -> tuple[tuple[str, ...], str, int]:
    return tuple(step.parents), step.name, step.occurrence
