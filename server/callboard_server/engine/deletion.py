"""How threads and sessions go."""

from __future__ import annotations

from callboard.v1.event_pb2 import Actor, Event
from callboard_server.engine.ending import cancel_thread, finish_stopped
from callboard_server.engine.line import ThreadLine
from callboard_server.store.base import SessionRow, ThreadRow, Transaction


def delete_tree(tx: Transaction, thread: ThreadRow, actor: Actor) -> SessionRow | None:
    """Deletes a thread with the threads below it; what is active there is cancelled first.

    A root thread goes with its session's log. Of a child thread the payloads are erased.

    Returns:
        The session, if that went: its streams and workspace are to go after the commit.
    """
    below = tx.threads_below(thread.key)
    for each in below:
        cancel_thread(tx, each, actor, by_parent=each.key != thread.key)
    _end_at_once(tx, thread, actor)
    for each in reversed(below):
        if thread.parent is not None:
            tx.erase_events(each)
            event = Event(actor=actor)
            event.thread_deleted.SetInParent()
            tx.append(each, event)
        tx.delete_thread(each)
    if thread.parent is not None:
        return None
    tx.delete_session(thread.session)
    return thread.session


def _end_at_once(tx: Transaction, thread: ThreadRow, actor: Actor) -> None:
    """Ends the runs of a thread that were asked to stop, so that who wants to knows of a job's."""
    line = ThreadLine(tx, thread)
    for run in list(line.runs):
        finish_stopped(tx, line, run, actor)
