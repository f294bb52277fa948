"""Actions: what a run needs from outside, and the answers."""

from __future__ import annotations

import json
from collections.abc import Sequence

from callboard.v1.event_pb2 import Action, ActionClosed, ActionResponse, Actor, Event, RunQueued
from callboard_server import errors
from callboard_server.engine.lifecycle import REQUIRES_ACTION, SERVER, queue_again, record
from callboard_server.engine.line import ThreadLine
from callboard_server.errors import Violation
from callboard_server.schemas import list_problems
from callboard_server.store.base import ActionRow, ActionState, RunRow, ThreadRow, Transaction

_ANSWERS = {
    Action.KIND_TOOL_PERMISSION: "permission",
    Action.KIND_CLIENT_TOOL: "tool_result",
    Action.KIND_QUESTION: "answer_json",
}
"""What an action of each kind is answered with."""


def raise_action(tx: Transaction, run: RunRow, action: Action, actor: Actor) -> ActionRow:
    """Asks for something from outside; what was asked for before is not asked for again."""
    known = tx.action(run.thread.session.key, action.action_id)
    if known is not None:
        return known
    event = Event(actor=actor)
    raised = event.action_raised.action
    raised.CopyFrom(action)
    raised.thread_id, raised.run_id = run.data.thread_id, run.data.run_id
    raised.create_time.FromNanoseconds(tx.now)
    run.thread.data.pending_action_count += 1
    record(tx, run, event)
    return tx.add_action(run, raised)


def answer_all(
    tx: Transaction, thread: ThreadRow, responses: Sequence[ActionResponse], actor: Actor
) -> list[RunRow]:
    """Answers actions of a thread's session, all or none, and wakes the runs that have theirs.

    Returns:
        The runs whose actions were answered.

    Raises:
        ServiceError: One of them cannot be answered so; the reason says why.
    """
    rows = [
        _answerable(tx, thread, response, f"responses[{position}]")
        for position, response in enumerate(responses)
    ]
    for row, response in zip(rows, responses, strict=True):
        event = Event(actor=actor)
        event.action_answered.response.CopyFrom(response)
        row.response = response
        _end(tx, row, ActionState.ANSWERED, event)
    runs = list({row.run.key: row.run for row in rows}.values())
    for run in runs:
        wake_if_answered(tx, run)
    return runs


def _answerable(
    tx: Transaction, thread: ThreadRow, response: ActionResponse, field: str
) -> ActionRow:
    row = tx.action(thread.session.key, response.action_id)
    if row is None:
        raise errors.action_not_found(response.action_id, thread.session.session_id)
    if row.state == ActionState.ANSWERED:
        raise errors.action_answered(response.action_id, row.ended_at or 0.0)
    if row.state == ActionState.CLOSED or _is_late(tx, row.data):
        raise errors.action_closed(response.action_id)
    _check_fits(row.data, response, field)
    return row


def _is_late(tx: Transaction, action: Action) -> bool:
    return action.HasField("deadline") and action.deadline.ToNanoseconds() <= tx.now


def _check_fits(action: Action, response: ActionResponse, field: str) -> None:
    wanted = _ANSWERS[action.kind]
    if response.WhichOneof("response") != wanted:
        kind = Action.Kind.Name(action.kind)
        raise errors.invalid(Violation(field, f"an action of {kind} is answered with {wanted}"))
    if wanted == "answer_json":
        _check_answer(action, response.answer_json, f"{field}.answer_json")
    if wanted == "tool_result":
        result, call = response.tool_result, action.tool_call
        if result.tool_call_id not in ("", call.tool_call_id):
            raise errors.invalid(
                Violation(f"{field}.tool_result.tool_call_id", f"must be {call.tool_call_id}")
            )


def _check_answer(action: Action, text: str, field: str) -> None:
    try:
        answer = json.loads(text)
    except ValueError:
        raise errors.invalid(
            Violation(field, 'must be JSON, such as "yes" with its quotes')
        ) from None
    if action.schema_json:
        problems = list_problems(json.loads(action.schema_json), answer)
        if problems:
            wrong = f"does not fit the schema: {'; '.join(problems)}"
            raise errors.invalid(Violation(field, wrong))


def awaited(tx: Transaction, run: RunRow) -> list[Action]:
    """Returns the open actions that a run waits for.

    Questions that its code has given up on may be open still, and are none of them.
    """
    ids = set(run.data.waiting_for.ids)
    rows = (row for row in tx.actions_of_run(run.key) if row.state == ActionState.OPEN)
    return [row.data for row in rows if row.data.action_id in ids]


def wake_if_answered(tx: Transaction, run: RunRow) -> None:
    """Puts a run back in line that waits for actions of which none is open any more."""
    if run.data.state != REQUIRES_ACTION:
        return
    if not awaited(tx, run):
        line = ThreadLine(tx, run.thread)
        queue_again(tx, run, RunQueued.REASON_RESUMED)
        line.advance()


def close_all(tx: Transaction, run: RunRow, cause: ActionClosed.Cause.ValueType) -> None:
    """Closes all open actions of a run."""
    if run.thread.data.pending_action_count:
        for row in tx.actions_of_run(run.key):
            if row.state == ActionState.OPEN:
                _close(tx, row, cause)


def close_late(tx: Transaction, run: RunRow) -> None:
    """Closes those open actions of a run whose deadline has passed."""
    for row in tx.actions_of_run(run.key):
        if row.state == ActionState.OPEN and _is_late(tx, row.data):
            _close(tx, row, ActionClosed.CAUSE_DEADLINE)


def _close(tx: Transaction, row: ActionRow, cause: ActionClosed.Cause.ValueType) -> None:
    event = Event(actor=SERVER)
    event.action_closed.action_id = row.data.action_id
    event.action_closed.cause = cause
    _end(tx, row, ActionState.CLOSED, event)


def _end(tx: Transaction, row: ActionRow, state: ActionState, event: Event) -> None:
    row.run.thread.data.pending_action_count -= 1
    record(tx, row.run, event)
    row.state, row.ended_at = state, tx.now / 1e9
    tx.save_action(row)
