"""What programs that show something share: a server of their own, lines with the time, checks."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markup import escape

from callboard import AsyncClient

STARTED = time.monotonic()

T = TypeVar("T")

console = Console(highlight=False, soft_wrap=True)


def say(who: str, text: str, style: str = "bold") -> None:
    """Prints a line with the time since the start."""
    elapsed = time.monotonic() - STARTED
    console.print(f"[dim]{elapsed:5.1f} s[/]  [{style}]{escape(who):<11}[/] {escape(text)}")


@asynccontextmanager
async def running_server(
    config: Path, db: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[str]:
    """Runs `callboard serve` on a free port and yields its address.

    Args:
        config: The configuration.
        db: The database.
        environment: Variables that it gets on top of those of this process.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = db.with_suffix(".log")
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "callboard.cli", "serve"),
            *("--config", config, "--port", str(port), "--db", db),
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
        )
    try:
        address = f"127.0.0.1:{port}"
        await until_serving(address, process, log)
        yield address
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def until_serving(address: str, process: asyncio.subprocess.Process, log: Path) -> None:
    """Waits until the server answers; raises with its output if it ends instead."""
    async with AsyncClient(address, timeout=30) as client:
        answer = asyncio.create_task(client.server.info())
        ended = asyncio.create_task(process.wait())
        await asyncio.wait([answer, ended], return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if answer.done():
            await answer
            return
        answer.cancel()
        raise SystemExit(f"the server did not start:\n{log.read_text('utf-8', 'replace')}")


Check = Callable[[T], str]
"""Returns what is wrong with what was shown, or nothing. Its docstring says what is right."""


def make_checks(
    name: str, shown: T, checks: Sequence[Check[T]], optional: Collection[Check[T]] = ()
) -> int:
    """Makes every check and prints what came of it; returns the exit code.

    Args:
        name: What was shown.
        shown: What there is to know of it.
        checks: The checks.
        optional: Those that need not hold, because there was too little to see it by.
    """
    passed = failed = 0
    for check in checks:
        problem = check(shown)
        if problem and check in optional:
            console.print(f"  {check.__doc__} [yellow]not seen[/]: there was too little to do")
        elif problem:
            failed += 1
            console.print(f"  {check.__doc__} [red]failed[/]: {escape(problem)}")
        else:
            passed += 1
            console.print(f"  {check.__doc__} [green]ok[/]")
    console.print(f"{name}: {passed} checks passed" + (f", {failed} failed" if failed else ""))
    return 1 if failed else 0
