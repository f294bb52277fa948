"""Ids of threads and jobs, as people give them: whole, or only their beginning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import Annotated

import typer

from callboard import Client, NotFound
from callboard.cli.failures import CommandError, ExitCode

_BEGINNING = re.compile(r"[0-9a-f]{8}[0-9a-f-]{0,27}")
"""What screens show of an id, or more of it."""
_NEWEST = 1000
"""Among how many threads, or jobs, to look where the server has no index of beginnings."""


class Abbreviated:
    """Marks parameters of commands that take ids of threads or jobs: a beginning is enough."""


JobId = Annotated[
    str,
    typer.Argument(metavar="ID", help="The job's id; its first 8 characters are enough."),
    Abbreviated,
]
ThreadId = Annotated[
    str,
    typer.Argument(metavar="ID", help="The thread's id, or a job's; its first 8 characters do."),
    Abbreviated,
]


def is_beginning(given: str) -> bool:
    """Whether this is the beginning of an id; of what is neither that nor one, the server tells."""
    return _BEGINNING.fullmatch(given) is not None


def whole_id(client: Client, beginning: str) -> str:
    """The id of the only job or thread that begins like that.

    Raises:
        CommandError: If none does, or several do.
    """
    found = _alike(client, beginning)
    if not found:
        raise CommandError(
            f"no job begins with {beginning}, nor does one of the newest {_NEWEST:,} threads",
            hint="callboard jobs list",
            exit_code=ExitCode.NOT_FOUND,
        )
    if len(found) > 1:
        choice = "\n".join(found)
        raise CommandError(
            f"{len(found)} jobs and threads begin with {beginning}; write one whole:\n{choice}",
            exit_code=ExitCode.USAGE,
        )
    return found[0]


def _alike(client: Client, beginning: str) -> Sequence[str]:
    threads = islice(client.threads.list(page_size=_NEWEST), _NEWEST)
    found = {each.thread_id for each in threads} | set(_jobs_alike(client, beginning))
    return sorted(each for each in found if each.startswith(beginning))


def _jobs_alike(client: Client, beginning: str) -> Sequence[str]:
    try:
        return [client.jobs.get(beginning).job_id]
    except NotFound as error:
        # The server names the only one, however many jobs there are.
        if suggestion := error.metadata.get("suggestion"):
            return [suggestion]
    jobs = islice(client.jobs.list(view="basic", page_size=_NEWEST), _NEWEST)
    return [each.job_id for each in jobs]
