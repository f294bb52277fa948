"""Messages as callers bring them: checked against the conversation, and made complete."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from callboard.v1.message_pb2 import Message, Role
from callboard_server import errors
from callboard_server.engine.history import ThreadAt
from callboard_server.errors import Violation
from callboard_server.ids import new_id
from callboard_server.log.exchanges import calls_in, results_in
from callboard_server.store.base import Reader, ThreadRow

_ANSWERED = "that call has its result"
_ITS_RUN = "that call is answered by its run"
_PAGE = 100


def completed(messages: Iterable[Message]) -> list[Message]:
    """Returns messages with ids, and without the fields that are the server's to say."""
    return [_complete(message) for message in messages]


def _complete(given: Message) -> Message:
    return Message(
        message_id=given.message_id or new_id(),
        role=given.role,
        author=given.author,
        content=given.content,
    )


def brings_results(messages: Iterable[Message]) -> bool:
    """Whether messages bring results of tool calls."""
    return any(message.role == Role.ROLE_TOOL for message in messages)


def check_results(
    messages: Sequence[Message], reader: Reader | None = None, thread: ThreadRow | None = None
) -> None:
    """Refuses results of tool calls that do not fit: no provider takes such a conversation.

    Each must answer a call that stands before it and has no result. Calls of runs that are not over
    are answered by these alone.

    Args:
        messages: The new messages.
        reader: Where to read the conversation that they go on.
        thread: Its thread; None where there is no conversation yet.

    Raises:
        ServiceError: One does not fit; the violation says which, and why.
    """
    wanted = {result.tool_call_id for m in messages for result in results_in(m)}
    known = _Calls()
    if reader is not None and thread is not None:
        known.read(reader, thread, wanted)
    wrong = [
        Violation(f"messages[{place}].{field}", problem)
        for place, message in enumerate(messages)
        for field, problem in known.problems(message)
    ]
    if wrong:
        raise errors.invalid(*wrong)


class _Calls:
    """The tool calls of a conversation."""

    def __init__(self) -> None:
        self._made: set[str] = set()
        self._why_not: dict[str, str] = {}
        """Of calls that may not be answered, the reason."""

    def read(self, reader: Reader, thread: ThreadRow, wanted: set[str]) -> None:
        """Finds calls in a thread, from its end back for as long as one is missing."""
        live = {run.data.run_id for run in reader.live_runs(thread.key)}
        conversation = ThreadAt(reader, thread)
        missing, more, beyond = set(wanted), True, None
        while missing and more:
            page, more = conversation.messages(_PAGE, newest_first=True, beyond=beyond)
            for event in page:
                beyond, message = event.sequence, event.message_added.message
                for result in results_in(message):
                    self._why_not.setdefault(result.tool_call_id, _ANSWERED)
                for call in calls_in(message):
                    missing.discard(call.tool_call_id)
                    if event.run_id in live:
                        self._why_not.setdefault(call.tool_call_id, _ITS_RUN)
                    self._made.add(call.tool_call_id)

    def problems(self, message: Message) -> list[tuple[str, str]]:
        """Takes a further message in; returns which of its fields are wrong, and why."""
        found = []
        for number, block in enumerate(message.content):
            if block.HasField("tool_result"):
                call = block.tool_result.tool_call_id
                if problem := self._problem(call):
                    found.append((f"content[{number}].tool_result.tool_call_id", problem))
                self._why_not[call] = _ANSWERED
            elif message.role == Role.ROLE_TOOL:
                found.append((f"content[{number}]", "a message of ROLE_TOOL has results only"))
        for made in calls_in(message):
            self._made.add(made.tool_call_id)
            self._why_not.pop(made.tool_call_id, None)
        return found

    def _problem(self, call: str) -> str:
        if call not in self._made:
            return "answers no call that stands before it"
        return self._why_not.get(call, "")
