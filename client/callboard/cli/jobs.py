"""`callboard jobs`: launching, redirecting and watching delegated work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Annotated

import typer

from callboard import Job, text_of
from callboard._enums import StateName
from callboard.cli.durations import parse_duration
from callboard.cli.failures import CommandError, ExitCode
from callboard.cli.invocation import Cli, command
from callboard.cli.job_views import error_of, job_details, job_table, succeeded
from callboard.cli.output import note, report
from callboard.cli.watching import watch_jobs

app = typer.Typer()
group = typer.Typer(help="Launch, redirect and watch jobs.", no_args_is_help=True)
app.add_typer(group, name="jobs")
