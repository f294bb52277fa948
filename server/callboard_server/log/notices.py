"""What a thread is told about a job: as data, and as the text that says the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from callboard.v1.event_pb2 import Action, Notice
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import Outcome, RunState
from callboard.v1.message_pb2 import ContentBlock, Message, Role, Text
from callboard.v1.run_pb2 import Run
from callboard_server.log.voices import said_by_user

AUTHOR = "callboard"
"""Who says it."""
MOST_BYTES = 100_000
"""The longest outcome, and the longest actions, that a notice repeats whole."""

_LONGEST_TASK, _LONGEST_TEXT = 4_000, 20_000
_ENDS: dict[int, str] = {
    RunState.RUN_STATE_SUCCEEDED: "is done",
    RunState.RUN_STATE_FAILED: "has failed",
    RunState.RUN_STATE_CANCELLED: "was cancelled",
    RunState.RUN_STATE_SUPERSEDED: "was stopped by a newer run",
    RunState.RUN_STATE_TIMED_OUT: "has run out of time",
    RunState.RUN_STATE_REQUIRES_ACTION: "needs an answer before it can go on",
}


def notice_of(notice_id: str, job: Job, run: Run, actions: Iterable[Action] = ()) -> Notice:
    """Returns the notice about where a job stands.

    Args:
        notice_id: Identifies it.
        job: The job.
        run: Its current run.
        actions: What that needs, where it needs something.
    """
    notice = Notice(
        notice_id=notice_id,
        job_id=job.job_id,
        run_id=run.run_id,
        agent=job.agent,
        task=_cut(job.task, _LONGEST_TASK),
        state=run.state,
        actions=actions,
        assistant_id=job.notify_assistant_id,
        assistant_agent=job.notify_agent,
        parent_run_id=job.parent_run_id,
    )
    if run.HasField("outcome"):
        notice.outcome.CopyFrom(run.outcome)
    notice.cut = _shorten(notice) or notice.task != job.task
    return notice


def _shorten(notice: Notice) -> bool:
    """Cuts what is too long for a notice; returns whether anything was."""
    is_long = False
    if notice.outcome.ByteSize() > MOST_BYTES:
        is_long = True
        _shorten_outcome(notice.outcome)
    if sum(action.ByteSize() for action in notice.actions) > MOST_BYTES:
        is_long = True
        for action in notice.actions:
            _shorten_action(action, MOST_BYTES // 5 // len(notice.actions))
    return is_long


def _shorten_outcome(outcome: Outcome) -> None:
    result = outcome.result
    if result.content:
        text = _cut(_said(result), _LONGEST_TEXT)
        del result.content[:]
        result.content.add(text=Text(text=text))
    if outcome.HasField("error"):
        outcome.error.message = _cut(outcome.error.message, _LONGEST_TASK)


def _shorten_action(action: Action, longest: int) -> None:
    action.question = _cut(action.question, longest)
    action.schema_json = _cut(action.schema_json, longest)
    call = action.tool_call
    if call.arguments_json:
        call.arguments_json = _cut(call.arguments_json, longest)


def message_of(notice: Notice, message_id: str) -> Message:
    """Returns the message that tells a thread of a notice.

    It is no instruction: what a job says, may be anybody's words.
    """
    return Message(
        message_id=message_id,
        role=Role.ROLE_USER,
        author=AUTHOR,
        notice_id=notice.notice_id,
        content=[ContentBlock(text=Text(text=text_of(notice)))],
    )


def heard_text(notice: Notice) -> str:
    """Returns a notice as the model of an assistant is sent it."""
    heard = said_by_user(message_of(notice, ""))
    return "".join(block.text.text for block in heard.content) if heard is not None else ""


def text_of(notice: Notice) -> str:
    """Returns a notice in words, which need nothing beside them to be understood."""
    return "\n".join(_lines(notice))


def _lines(notice: Notice) -> Iterator[str]:
    yield f"Job {notice.job_id} of agent {notice.agent} {_ENDS.get(notice.state, 'goes on')}."
    if notice.task:
        yield f"Task: {notice.task}"
    for action in notice.actions:
        yield from _asked(action)
    if notice.outcome.error.message:
        yield f"Error: {notice.outcome.error.message}"
    result = notice.outcome.result
    if said := _said(result):
        yield f"Result: {_cut(said, _LONGEST_TEXT)}"
    others = sum(b.HasField("image") or b.HasField("file") for b in result.content)
    if others:
        yield f"With the result come files or pictures: {others}."
    if notice.cut or len(said) > _LONGEST_TEXT:
        yield "This was cut; the job itself has the whole."


def _asked(action: Action) -> Iterator[str]:
    call = action.tool_call
    match action.kind:
        case Action.KIND_TOOL_PERMISSION:
            asked = f"Permission to run the tool {call.name} with {call.arguments_json}"
        case Action.KIND_CLIENT_TOOL:
            asked = f"The result of the tool {call.name}, called with {call.arguments_json}"
        case _:
            asked = action.question
    yield f"It needs (action {action.action_id}): {asked}"
    if action.schema_json:
        yield f"The answer must fit this JSON Schema: {action.schema_json}"


def _said(message: Message) -> str:
    return "".join(block.text.text for block in message.content)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]} …"
