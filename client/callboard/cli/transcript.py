"""What is shown of a conversation: answers as they are written, tool calls, failures."""

from __future__ import annotations

from callboard import Delta, Event, Message, Role, RunState, text_of
from callboard.cli.gists import action_gist, call_gist, notice_gist, progress_gist
from callboard.cli.output import Output, one_line, printable
from callboard.cli.screen import Screen
from callboard.v1.event_pb2 import RunFinished

_LINE = 100


class JsonTranscript:
    """Prints every event for machines."""

    def __init__(self, out: Output) -> None:
        """Prints to `out`."""
        self._out = out

    def show(self, item: Event | Delta) -> None:
        """Prints an event. The pieces of a message are left out, for it comes as a whole."""
        if isinstance(item, Event):
            self._out.json(item)


class Transcript:
    """Prints a conversation for people.

    An answer appears piece by piece; while somebody types, or another answer is being written, in
    one go.
    """

    def __init__(self, screen: Screen) -> None:
        """Prints to `screen`."""
        self._screen = screen
        self._author = ""
        self._message_id = ""
        self._shown = ""
        self._is_torn = False

    def show(self, item: Event | Delta) -> None:
        """Prints what is new."""
        if isinstance(item, Delta):
            self._show_delta(item)
            return
        match item.WhichOneof("payload"):
            case "message_added":
                self._show_message(item.message_added.message)
            case "message_discarded":
                self._end_message("\n(starts over)\n")
            case "notice_added":
                self._show_line(f"· {notice_gist(item.notice_added.notice)}")
            case "run_progress":
                self._screen.show_status(progress_gist(item.run_progress.progress))
            case "action_raised":
                action = item.action_raised.action
                self._screen.write(f"? {action_gist(action)}\n", "yellow")
                self._show_line(f"callboard respond {action.action_id}")
            case "run_finished":
                self._show_end(item.run_finished)

    def _show_delta(self, delta: Delta) -> None:
        if delta.kind != Delta.KIND_TEXT:
            return
        is_first = not self._message_id and delta.offset == 0
        if is_first and not self._screen.is_typing:
            self._name(delta.author)
            self._message_id = delta.message_id
        if delta.message_id != self._message_id:
            return
        # What was typed in between tears the answer: its rest comes with the message.
        self._is_torn = self._is_torn or self._screen.is_typing
        if not self._is_torn:
            self._shown += printable(delta.text)
            self._screen.write(delta.text)

    def _show_message(self, message: Message) -> None:
        if message.role == Role.ROLE_ASSISTANT:
            self._show_answer(message)
        for block in message.content:
            if block.HasField("tool_call"):
                self._show_line(f"→ {call_gist(block.tool_call)}")
            elif block.HasField("tool_result") and block.tool_result.is_error:
                self._show_line(f"✗ {block.tool_result.name}: {block.tool_result.text}")

    def _show_answer(self, message: Message) -> None:
        whole = text = printable(text_of(message)).rstrip("\n")
        if message.message_id != self._message_id:
            self._name(message.author)
        elif text.startswith(self._shown):
            text = text[len(self._shown) :]
            self._forget()
        else:
            self._end_message("\n")
        if whole:
            self._screen.write(text + "\n")

    def _show_end(self, finished: RunFinished) -> None:
        if finished.state == RunState.RUN_STATE_CANCELLED:
            self._show_line("(stopped)")
        elif finished.state in (RunState.RUN_STATE_FAILED, RunState.RUN_STATE_TIMED_OUT):
            self._screen.complain(finished.outcome.error.message)

    def _show_line(self, text: str) -> None:
        line = one_line(text)
        self._screen.write(f"  {line if len(line) <= _LINE else line[:_LINE] + '…'}\n", "dim")

    def _name(self, author: str) -> None:
        """Says who speaks, where it is somebody else than before."""
        if self._author and author != self._author:
            self._screen.write(f"{one_line(author)}:\n", "dim")
        self._author = author

    def _end_message(self, text: str) -> None:
        if self._message_id:
            self._screen.write(text)
        self._forget()

    def _forget(self) -> None:
        self._message_id, self._shown, self._is_torn = "", "", False
