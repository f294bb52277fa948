"""What is said in a conversation, under the name of who says it, as it is being written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from callboard import Delta, Message, text_of
from callboard.cli.gists import blocks_gist
from callboard.cli.output import printable, shortened
from callboard.cli.screen import Screen

_THOUGHT = 200


@dataclass(slots=True)
class _Draft:
    """An answer that is shown while it is being written.

    Attributes:
        message_id: The message; empty while there is none.
        run_id: The run that writes it.
        shown: What was printed of it.
        is_torn: Whether something else came in between, so that the rest waits for the message.
    """

    message_id: str = ""
    run_id: str = ""
    shown: str = ""
    is_torn: bool = False


class Speech:
    """Prints what is said.

    An answer appears piece by piece; while somebody types, or another answer is being written, in
    one go.

    Attributes:
        named: The name of the assistant that is talked to: what it says needs no heading as long as
            no other assistant speaks.
        names_all: Whether everybody is named all the same.
    """

    def __init__(self, screen: Screen, named: str, *, shows_thoughts: bool) -> None:
        """Prints to `screen`."""
        self.named = named
        self.names_all = False
        self._screen = screen
        self._shows_thoughts = shows_thoughts
        self._speakers: set[str] = set()
        self._heading = ""
        self._draft = _Draft()
        self._thoughts: dict[str, dict[int, str]] = {}
        """What was thought before messages in the making, by message and block; emptied as it is
        shown."""

    def begin_turn(self) -> None:
        """Lets whoever speaks next be named again."""
        self._heading = ""

    def head(self, author: str) -> None:
        """Says which assistant speaks, where that is not clear."""
        self._speakers.add(author)
        if self.names_all or author != self.named or len(self._speakers) > 1:
            self._write_heading(author)

    def show_delta(self, delta: Delta) -> None:
        """Prints a piece of an answer in the making."""
        if delta.kind == Delta.KIND_THINKING:
            thoughts = self._thoughts.setdefault(delta.message_id, {})
            thoughts[delta.index] = thoughts.get(delta.index, "") + delta.text
        elif delta.kind == Delta.KIND_TEXT:
            self._show_piece(delta)

    def show_answer(self, message: Message) -> None:
        """Prints an answer, or what was not shown of it yet."""
        thoughts = self._take_thoughts(message)
        rest = self._take_rest(message)
        files = _files_in(message)
        if rest or files:
            self.head(message.author)
        self._show_thoughts(thoughts)
        self._write(rest, files)

    def show_question(self, message: Message) -> None:
        """Prints what somebody said to the assistants."""
        self._write_heading(message.author or "user")
        self._write(printable(text_of(message)), _files_in(message))

    def take_back(self, message_id: str) -> None:
        """Says that an answer will not come, where some of it was shown."""
        self._thoughts.pop(message_id, None)
        if message_id and message_id == self._draft.message_id:
            self._draft = _Draft()
            self._screen.write_line("✗ what stands above of this answer is void", "red")

    def take_back_of(self, run_id: str) -> None:
        """Says that the answer that a run was writing will not come."""
        if run_id == self._draft.run_id:
            self.take_back(self._draft.message_id)

    def _write_heading(self, author: str) -> None:
        if author != self._heading:
            self._screen.write_line(f"{author}:", "bold", indent="")
        self._heading = author

    def _write(self, text: str, files: str) -> None:
        if text := text.rstrip("\n"):
            self._screen.write(f"{text}\n")
        self._screen.end_line()
        if files:
            self._screen.write_line(files)

    def _show_piece(self, delta: Delta) -> None:
        draft = self._draft
        is_first = not draft.message_id and delta.offset == 0
        if is_first and not self._screen.is_typing:
            draft.message_id, draft.run_id = delta.message_id, delta.run_id
        if delta.message_id != draft.message_id:
            return
        # What was typed in between tears the answer: its rest comes with the message.
        draft.is_torn = draft.is_torn or self._screen.is_typing
        piece = printable(delta.text)
        if piece and not draft.is_torn:
            self.head(delta.author)
            self._show_thoughts(self._thoughts.pop(delta.message_id, {}).values())
            draft.shown += piece
            self._screen.write(piece)

    def _take_rest(self, message: Message) -> str:
        """What was not shown yet of a message that is there now."""
        text, draft = printable(text_of(message)), self._draft
        if message.message_id != draft.message_id:
            # What another one says tears the answer that is being written.
            draft.is_torn = bool(draft.message_id)
            self._screen.end_line()
            return text
        self._draft = _Draft()
        if not text.startswith(draft.shown):
            self._screen.end_line()
        return text.removeprefix(draft.shown)

    def _take_thoughts(self, message: Message) -> list[str]:
        """What was not shown yet of the thoughts in a message that is there now."""
        streamed = self._thoughts.pop(message.message_id, {})
        if message.message_id == self._draft.message_id:
            return list(streamed.values())
        return [each.thinking.text for each in message.content if each.HasField("thinking")]

    def _show_thoughts(self, thoughts: Iterable[str]) -> None:
        for thought in thoughts if self._shows_thoughts else ():
            if gist := shortened(thought, _THOUGHT):
                self._screen.write_line(f"(thinks) {gist}", "dim italic")


def _files_in(message: Message) -> str:
    return blocks_gist(
        block for block in message.content if block.WhichOneof("block") in ("image", "file")
    )
