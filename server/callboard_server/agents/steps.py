"""Where code of an agent is within its steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_path: ContextVar[tuple[str, ...]] = ContextVar("step_path", default=())


def current_path() -> tuple[str, ...]:
    """Returns the steps in which code runs, outermost first."""
    return _path.get()


@contextmanager
def entered(name: str) -> Iterator[None]:
    """Makes code run one step deeper."""
    with _at(*_path.get(), name):
        yield


@contextmanager
def entered_anew(name: str) -> Iterator[None]:
    """Makes code run in a step that is the same one wherever it is taken."""
    with _at(name):
        yield


@contextmanager
def _at(*path: str) -> Iterator[None]:
    token = _path.set(path)
    try:
        yield
    finally:
        _path.reset(token)
