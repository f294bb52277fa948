"""The watchdog: measures how late the event loop is, and names whoever blocks it.

It runs in a thread of its own, for a blocked loop cannot say so itself.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

INTERVAL = 0.25
"""How often the loop is asked for a sign of life, in seconds."""
BLOCKED = 1.0
"""After how many seconds without one it counts as blocked."""


class Watchdog:
    """Watches the running event loop.

    Args:
        agent_code: The code of the function that runs agents.
        agent_of: Returns the agent's name from the local variables of a call of that function.
    """

    def __init__(self, agent_code: CodeType, agent_of: Callable[[dict[str, object]], str]) -> None:
        self._agent_code = agent_code
        self._agent_of = agent_of
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._stopping = threading.Event()
        self._answered = threading.Event()
        self.lag = 0.0
        """How late the loop last was, in seconds."""
        self._thread = threading.Thread(target=self._watch, name="callboard-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def _watch(self) -> None:
        while not self._stopping.wait(INTERVAL):
            self._answered.clear()
            asked = time.monotonic()
            try:
                self._loop.call_soon_threadsafe(self._answered.set)
            except RuntimeError:
                # The loop has ended.
                return
            if not self._answered.wait(BLOCKED):
                self._report()
                self._answered.wait()
            self.lag = time.monotonic() - asked

    def _report(self) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else ""
        agent = self._find_agent(frame)
        if agent:
            log.warning("agent blocks the event loop", agent=agent, place=place)
        else:
            log.warning("the event loop is blocked", place=place)

    def _find_agent(self, frame: FrameType | None) -> str:
        while frame is not None:
            if frame.f_code is self._agent_code:
                return self._agent_of(frame.f_locals)
            frame = frame.f_back
        return ""
