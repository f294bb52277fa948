"""How much memory a process takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

MEGABYTE = 1 << 20


def peak_bytes(pid: int) -> int:
    """Returns the most memory that a process ever had; skips the test where nobody tells."""
    status = Path(f"/proc/{pid}/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    if found is None:
        pytest.skip("there is no /proc that tells of memory")
    return int(found[1]) * 1024
