"""The terminal of a conversation: messages are typed at its bottom, answers appear above."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

from callboard.cli.output import Output, note, one_line, report

try:
    # Gives input() a line that can be edited, and a history.
    import readline
except ImportError:  # Windows has none
    readline = None  # type: ignore[assignment]

_PROMPT = "> "
_CLEAR_LINE = "\r\x1b[K"


class Screen:
    """Reads messages and prints what comes in between, from any thread.

    Without a terminal, messages come from standard input, a line each.

    Attributes:
        is_interactive: Whether a person types.
    """

    def __init__(self, out: Output) -> None:
        """Takes the standard input of the process."""
        self.is_interactive = sys.stdin.isatty() and out.is_terminal
        self._out = out
        self._lock = threading.RLock()
        self._is_typing = False
        self._has_status = False
        self._at_line_start = True

    @property
    def is_typing(self) -> bool:
        """Whether a message is being typed right now."""
        return self._is_typing

    def messages(self) -> Iterator[str]:
        """Reads messages until the end of the input. Empty lines are none."""
        lines = self._typed_lines() if self.is_interactive else iter(sys.stdin)
        return (line.strip() for line in lines if line.strip())

    def write(self, text: str, style: str = "") -> None:
        """Prints text; above what is being typed it must be whole lines."""
        with self._lock:
            if self._is_typing or self._has_status:
                self._raw(_CLEAR_LINE)
                self._has_status = False
            self._out.write(text, style)
            self._at_line_start = text.endswith("\n")
            if self._is_typing:
                self._raw(_PROMPT + (readline.get_line_buffer() if readline else ""))

    def show_status(self, text: str) -> None:
        """Shows a line that goes away with the next one. For people only."""
        with self._lock:
            if self.is_interactive and self._at_line_start and not self._is_typing:
                self._raw(_CLEAR_LINE)
                self._out.write(one_line(text)[: self._out.console.width - 1], "dim")
                self._has_status = True

    def complain(self, message: str) -> None:
        """Tells about a failure in the conversation, which goes on."""
        if self.is_interactive:
            self.write(f"error: {one_line(message)}\n", "red")
        else:
            report(one_line(message))

    def greet(self, text: str) -> None:
        """Tells a person how this works."""
        if self.is_interactive:
            note(text)

    def _typed_lines(self) -> Iterator[str]:
        while True:
            with self._lock:
                self._raw("\n" if self._at_line_start else "\n\n")
                self._at_line_start = self._is_typing = True
            try:
                line = input(_PROMPT)
            except KeyboardInterrupt:
                line = ""
            except EOFError:
                self._raw("\n")
                return
            finally:
                self._is_typing = False
            yield line

    def _raw(self, text: str) -> None:
        self._out.console.file.write(text)
        self._out.console.file.flush()
