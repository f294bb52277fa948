"""Tool calls that a run leaves without a result: each gets one that says so."""

from __future__ import annotations

from callboard.v1.event_pb2 import Event
from callboard.v1.message_pb2 import ContentBlock, Message, Role, ToolCall, ToolResult
from callboard_server.engine.lifecycle import SERVER, record
from callboard_server.ids import new_id
from callboard_server.log.events import kinds
from callboard_server.log.exchanges import calls_in, results_in
from callboard_server.store.base import EventFilter, RunRow, Transaction

_KINDS = kinds("message_added", "tool_started", "claim_voided")
_NOT_RUN = "This call was not run: its run ended before."
_OUTCOME_UNKNOWN = (
    "The run ended while this tool ran. Whether it had its effect is not known: "
    "find out before you call it again."
)


def close_calls(tx: Transaction, run: RunRow) -> None:
    """Gives every open tool call of a run that ends early an error as its result."""
    answer, answered, started = Message(), set[str](), set[str]()
    wanted = EventFilter(thread=run.thread.key, run=run.key, kinds=_KINDS)
    for found in tx.events(
        run.thread.session.key, wanted, after=run.data.created_sequence, newest_first=True
    ):
        event = found.event
        if event.HasField("claim_voided"):
            break
        if event.HasField("tool_started"):
            started.add(event.tool_started.call.tool_call_id)
            continue
        message = event.message_added.message
        answered.update(result.tool_call_id for result in results_in(message))
        if event.claim_epoch and calls_in(message):
            # Those before it were closed when the model was asked for it.
            answer = message
            break
    for call in calls_in(answer):
        if call.tool_call_id not in answered:
            record(tx, run, _closing(tx, run, call, answer.author, call.tool_call_id in started))


def _closing(tx: Transaction, run: RunRow, call: ToolCall, author: str, started: bool) -> Event:
    result = ToolResult(
        tool_call_id=call.tool_call_id,
        name=call.name,
        text=_OUTCOME_UNKNOWN if started else _NOT_RUN,
        is_error=True,
        outcome_unknown=started,
    )
    event = Event(actor=SERVER)
    message = event.message_added.message
    message.CopyFrom(
        Message(
            message_id=new_id(),
            role=Role.ROLE_TOOL,
            author=author,
            run_id=run.data.run_id,
            content=[ContentBlock(tool_result=result)],
        )
    )
    message.create_time.FromNanoseconds(tx.now)
    return event
