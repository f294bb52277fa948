"""The workspaces: for each session a folder that its agents share, as long as the session is."""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import uuid4

import structlog

from callboard_server.agents.threads import in_thread

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Workspaces:
    """The folders of all sessions.

    Args:
        folder: What they are in.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, session_id: str) -> Path:
        """Returns the folder of a session, which may not be there yet."""
        return self._folder / session_id

    async def remove(self, session_id: str) -> None:
        """Removes the folder of a session that is gone."""
        try:
            await in_thread(self._remove, session_id)
        except OSError as error:
            log.error("cannot remove a workspace", session=session_id, problem=error.strerror)

    def _remove(self, session_id: str) -> None:
        # Out of the way at once: a session of the same id may be made anew.
        gone = self._folder / f"{uuid4()}.gone"
        try:
            self.of(session_id).rename(gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone)
