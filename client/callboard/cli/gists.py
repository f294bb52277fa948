"""What an event says, on a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from callboard import (
    Action,
    ActionResponse,
    ContentBlock,
    Event,
    Notice,
    Outcome,
    Progress,
    RunState,
    ToolCall,
    WaitingFor,
    text_of,
    to_dict,
)
from callboard.cli.output import one_line
from callboard.cli.states import state_word
from callboard.v1.event_pb2 import (
    ActionClosed,
    JobDelivery,
    JobUpdated,
    RunCancelRequested,
    RunCreated,
    RunQueued,
    RunTrigger,
    RunWaiting,
    StepRecorded,
    ThreadCreated,
)


def short(identifier: str) -> str:
    """The beginning of an id, enough to tell it from the others on a screen."""
    return identifier[:8]


def event_gist(event: Event) -> str:
    """What an event says; empty where there is nothing more to it than its kind."""
    if event.redacted:
        return "(erased)"
    kind = event.WhichOneof("payload")
    if kind is None or kind not in _GISTS:
        return ""
    return one_line(_GISTS[kind](getattr(event, kind)))


def blocks_gist(blocks: Iterable[ContentBlock]) -> str:
    """What content blocks say."""
    return "  ".join(filter(None, map(_block, blocks)))


def call_gist(call: ToolCall) -> str:
    """A tool call."""
    return one_line(f"{call.name} {call.arguments_json}")


def action_gist(action: Action) -> str:
    """What an action asks: the question, or the tool call that it is about."""
    return one_line(action.question) or call_gist(action.tool_call)


def notice_gist(notice: Notice) -> str:
    """What a notice says about a job."""
    return f"{notice.agent} {state_word(notice.state)}: {notice.task}"


def progress_gist(progress: Progress) -> str:
    """How far something is."""
    count = f"{progress.current}/{progress.total}" if progress.total else ""
    if progress.current and not progress.total:
        count = str(progress.current)
    message = one_line(progress.message)
    return f"{message} ({count})" if message and count else message or count


def _block(block: ContentBlock) -> str:
    match block.WhichOneof("block"):
        case "text":
            return block.text.text
        case "tool_call":
            return f"→ {call_gist(block.tool_call)}"
        case "tool_result":
            result = block.tool_result
            return f"{'✗' if result.is_error else '←'} {result.name}: {result.text}"
        case "thinking":
            return f"(thinks) {block.thinking.text}"
        case "image":
            return f"(image {block.image.media_type})"
        case "file":
            return f"(file {block.file.name})"
        case _:
            return ""


def _outcome(state: RunState.ValueType, outcome: Outcome) -> str:
    told = outcome.error.message or text_of(outcome.result)
    return f"{state_word(state)}: {told}" if told else state_word(state)


def _thread_created(created: ThreadCreated) -> str:
    below = f"below {short(created.parent_thread_id)}" if created.parent_thread_id else ""
    copied = (
        f"copy of {short(created.copied_from_thread_id)}" if created.copied_from_thread_id else ""
    )
    return _join(created.agent, created.model, below, copied)


def _run_created(created: RunCreated) -> str:
    trigger = RunTrigger.Name(created.trigger).removeprefix("RUN_TRIGGER_").lower()
    return _join(created.agent, f"by {trigger}")


def _run_waiting(waiting: RunWaiting) -> str:
    kind = WaitingFor.Kind.Name(waiting.waiting_for.kind).removeprefix("KIND_").lower()
    return _join(state_word(waiting.state), f"for {kind}")


def _run_queued(queued: RunQueued) -> str:
    reason = RunQueued.Reason.Name(queued.reason).removeprefix("REASON_").lower()
    return _join(reason, queued.error.message)


def _run_cancel_requested(request: RunCancelRequested) -> str:
    by = f"by run {short(request.superseded_by_run_id)}" if request.superseded_by_run_id else ""
    return _join(state_word(request.state), by, "with its jobs" if request.cascade else "")


def _step(step: StepRecorded) -> str:
    return f"{'/'.join([*step.parents, f'{step.name}#{step.occurrence}'])} = {step.result_json}"


def _answer(response: ActionResponse) -> str:
    match response.WhichOneof("response"):
        case "permission":
            return "allowed" if response.permission.allow else "denied"
        case "tool_result":
            return response.tool_result.text
        case _:
            return response.answer_json


def _closed(closed: ActionClosed) -> str:
    cause = ActionClosed.Cause.Name(closed.cause).removeprefix("CAUSE_").lower()
    return cause.replace("_", " ")


def _job_updated(updated: JobUpdated) -> str:
    delivery = JobDelivery.Name(updated.delivery).removeprefix("JOB_DELIVERY_").lower()
    return f"{delivery}: {updated.instructions}"


def _join(*parts: str) -> str:
    return ", ".join(filter(None, parts))


# Kinds that are missing here say all with their name.
_GISTS: dict[str, Callable[[Any], str]] = {
    "thread_created": _thread_created,
    "thread_updated": lambda updated: json.dumps(to_dict(updated.metadata), ensure_ascii=False),
    "thread_idle": lambda idle: f"after {state_word(idle.last_run_state)}",
    "message_added": lambda added: blocks_gist(added.message.content),
    "message_discarded": lambda discarded: discarded.reason,
    "values_merged": lambda merged: json.dumps(to_dict(merged.patch), ensure_ascii=False),
    "context_compacted": lambda compacted: text_of(compacted.summary),
    "assistant_changed": lambda changed: f"to {short(changed.to_assistant_id)}",
    "run_created": _run_created,
    "run_progress": lambda progress: progress_gist(progress.progress),
    "run_waiting": _run_waiting,
    "run_queued": _run_queued,
    "run_input_added": lambda added: f"{len(added.message_ids)} messages",
    "run_cancel_requested": _run_cancel_requested,
    "run_finished": lambda finished: _outcome(finished.state, finished.outcome),
    "runs_rolled_back": lambda rolled: ", ".join(map(short, rolled.run_ids)),
    "model_call_started": lambda started: started.model,
    "model_call_finished": lambda finished: finished.error.message,
    "tool_started": lambda started: call_gist(started.call),
    "step_recorded": _step,
    "custom": lambda custom: f"{custom.name} {custom.data_json}",
    "claim_voided": lambda voided: f"claim {voided.claim_epoch}",
    "action_raised": lambda raised: action_gist(raised.action),
    "action_answered": lambda answered: _answer(answered.response),
    "action_closed": _closed,
    "job_launched": lambda launched: f"{launched.agent}: {launched.task}",
    "job_updated": _job_updated,
    "thread_message_sent": lambda sent: (
        f"to {short(sent.to_thread_id)}: {blocks_gist(sent.content)}"
    ),
    "thread_message_received": lambda received: (
        f"from {short(received.from_thread_id)}: {blocks_gist(received.content)}"
    ),
    "notice_added": lambda added: notice_gist(added.notice),
    "notices_read": lambda read: f"{len(read.notice_ids)} read",
}
