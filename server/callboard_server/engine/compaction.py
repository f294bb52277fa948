"""Compaction on demand: a summary that is given, or the run that writes one."""

from __future__ import annotations

from callboard.v1.assistant_pb2 import Assistant
from callboard.v1.event_pb2 import Actor, Event, RunTrigger
from callboard.v1.message_pb2 import ContentBlock, Message, Role, Text
from callboard_server.engine.creation import NewRun, check_size
from callboard_server.ids import new_id
from callboard_server.store.base import ThreadRow, Transaction


def write_summary(tx: Transaction, thread: ThreadRow, text: str, actor: Actor) -> None:
    """Makes all assistants of a thread start from a summary.

    It stands for what was before the runs that have begun and are not over: those go on from what
    they have seen.
    """
    event = Event(actor=actor)
    compacted = event.context_compacted
    compacted.through_sequence = _settled(tx, thread)
    compacted.summary.CopyFrom(
        Message(
            message_id=new_id(),
            role=Role.ROLE_USER,
            content=[ContentBlock(text=Text(text=text))],
        )
    )
    compacted.summary.create_time.FromNanoseconds(tx.now)
    check_size(event)
    tx.append(thread, event)
    thread.data.update_time.CopyFrom(event.time)
    tx.save_thread(thread)


def _settled(tx: Transaction, thread: ThreadRow) -> int:
    """Returns the last event before those on which a run is at work."""
    live = [run.data for run in tx.live_runs(thread.key) if run.data.claim_epoch]
    begun = [run.created_sequence - 1 for run in live]
    return min([thread.session.head, *begun])


def summarising_run(assistant: Assistant) -> NewRun:
    """Returns a run that summarises its thread for its assistant, and does nothing else."""
    return NewRun(
        run_id=new_id(),
        assistant_id=assistant.assistant_id,
        assistant_version=assistant.version,
        agent=assistant.agent,
        trigger=RunTrigger.RUN_TRIGGER_COMPACTION,
    )
