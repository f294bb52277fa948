"""The states of runs and jobs, and what can be seen of them at a glance."""

from __future__ import annotations

from typing import NamedTuple

from rich.text import Text

from callboard import RunState


class _Look(NamedTuple):
    word: str
    sign: str
    style: str


_LOOKS = {
    RunState.RUN_STATE_QUEUED: _Look("queued", "○", "dim"),
    RunState.RUN_STATE_RUNNING: _Look("running", "●", "cyan"),
    RunState.RUN_STATE_WAITING: _Look("waiting", "◌", "dim"),
    RunState.RUN_STATE_REQUIRES_ACTION: _Look("needs action", "?", "yellow"),
    RunState.RUN_STATE_SUCCEEDED: _Look("succeeded", "✓", "green"),
    RunState.RUN_STATE_FAILED: _Look("failed", "✗", "red"),
    RunState.RUN_STATE_CANCELLED: _Look("cancelled", "-", "dim"),
    RunState.RUN_STATE_SUPERSEDED: _Look("superseded", "-", "dim"),
    RunState.RUN_STATE_TIMED_OUT: _Look("timed out", "✗", "red"),
}
_UNKNOWN = _Look("unknown", " ", "dim")


def state_word(state: RunState.ValueType) -> str:
    """A state in plain words."""
    return _LOOKS.get(state, _UNKNOWN).word


def state_text(state: RunState.ValueType) -> Text:
    """A state with its sign and colour."""
    word, sign, style = _LOOKS.get(state, _UNKNOWN)
    return Text(f"{sign} {word}", style=style)
