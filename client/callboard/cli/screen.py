"""The terminal of a conversation: lines are typed at its bottom, answers appear above."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.text import Text

from callboard.cli.output import Output, note, one_line, report

try:
    # Gives input() a line that can be edited, and a history.
    import readline
except ImportError:  # Windows has none
    readline = None  # type: ignore[assignment]

MESSAGE_PROMPT = "> "
_CLEAR_LINE = "\r\x1b[K"


class Screen:
    """Reads lines and prints what comes in between, from any thread.

    Without a terminal, lines come from standard input. Where a machine reads the output, nothing of
    this is printed.

    Attributes:
        is_interactive: Whether a person types.
    """

    def __init__(self, out: Output) -> None:
        """Takes the standard input of the process."""
        self.is_interactive = sys.stdin.isatty() and out.is_terminal
        self._out = out
        self._lock = threading.RLock()
        self._prompt = ""
        self._has_ended = False
        self._has_status = False
        self._at_line_start = True

    @property
    def is_typing(self) -> bool:
        """Whether a line is being typed right now."""
        return bool(self._prompt)

    @property
    def awaits_message(self) -> bool:
        """Whether that line is a message, and not the answer to a question."""
        return self._prompt == MESSAGE_PROMPT

    def read(
        self, prompt: str, question: str = "", on_ready: Callable[[], None] | None = None
    ) -> str | None:
        """Reads a line. Without a terminal, empty lines are none.

        Args:
            prompt: What stands before the line.
            question: What to print above it.
            on_ready: Is called once the line can be typed.

        Returns:
            The line without the space around it. None at the end of the input, and ever after.

        Raises:
            KeyboardInterrupt: On Ctrl-C.
        """
        if self.is_interactive and not self._has_ended:
            return self._read_typed(prompt, question, on_ready)
        self.write(question, "yellow")
        lines = () if self._has_ended else sys.stdin
        return next((line.strip() for line in lines if line.strip()), None)

    def write(self, text: str, style: str = "") -> None:
        """Prints text; above what is being typed it must be whole lines."""
        if text and not self._out.as_json:
            with self._above():
                self._out.write(text, style)
                self._at_line_start = text.endswith("\n")

    def write_line(self, text: str, style: str = "dim", *, indent: str = "  ") -> None:
        """Prints a line by itself, which the edge of the screen cuts off."""
        if not self._out.as_json:
            with self._above():
                self.end_line()
                self._out.print_line(Text(indent + one_line(text), style=style))

    def end_line(self) -> None:
        """Goes on at the beginning of a line."""
        with self._lock:
            if not self._at_line_start:
                self.write("\n")

    def show_status(self, text: str) -> None:
        """Shows a line that goes away with the next one. For people only."""
        with self._lock:
            if self.is_interactive and self._at_line_start and not self.is_typing:
                self._raw(_CLEAR_LINE)
                self._out.write(one_line(text)[: self._out.console.width - 1], "dim")
                self._has_status = True

    def complain(self, message: str) -> None:
        """Tells about a failure in the conversation, which goes on."""
        if self.is_interactive:
            self.write(f"error: {one_line(message)}\n", "red")
        else:
            report(one_line(message))

    def tell(self, text: str) -> None:
        """Tells a person something beside the conversation."""
        if self.is_interactive:
            self.write(f"{text}\n", "dim")
        else:
            note(text)

    def _read_typed(
        self, prompt: str, question: str, on_ready: Callable[[], None] | None
    ) -> str | None:
        with self._lock:
            self.write("\n" if self._at_line_start else "\n\n")
            self.write(question, "yellow")
            self._prompt = prompt
        try:
            if on_ready is not None:
                on_ready()
            # What came meanwhile may have drawn the prompt, as input() does now.
            self._raw(_CLEAR_LINE)
            return input(prompt).strip()
        except KeyboardInterrupt:
            self._raw("\n")
            raise
        except EOFError:
            self._raw("\n")
            self._has_ended = True
            return None
        finally:
            self._prompt = ""

    @contextmanager
    def _above(self) -> Iterator[None]:
        """Makes room above what is being typed."""
        with self._lock:
            if self.is_typing or self._has_status:
                self._raw(_CLEAR_LINE)
                self._has_status = False
            yield
            if self.is_typing:
                self._raw(self._prompt + (readline.get_line_buffer() if readline else ""))

    def _raw(self, text: str) -> None:
        self._out.console.file.write(text)
        self._out.console.file.flush()
