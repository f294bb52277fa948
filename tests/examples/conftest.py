"""What the examples' tests share: a context that needs no server, and files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from callboard_server import SyncContext


class Cancelled(BaseException):
    """The call was cancelled."""


class FakeContext(SyncContext):
    """Keeps what a tool reports, and cancels it where a test says so."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.reports: list[tuple[str, int | None, int | None]] = []
        self.checks = 0
        self._cancel_at = cancel_at

    def progress(
        self, message: str, *, current: int | None = None, total: int | None = None
    ) -> None:
        self.reports.append((message, current, total))

    def check_cancelled(self) -> None:
        self.checks += 1
        if self.checks == self._cancel_at:
            raise Cancelled


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> str:
    for path, content in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(folder)


@pytest.fixture
def ctx() -> FakeContext:
    return FakeContext()
