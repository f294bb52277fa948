"""A server that is killed again and again, while clients play their scenes on it."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import callboard
from callboard import Run, _backoff
from callboard_server import faults
from tests.robustness.checks import Verdict, all_logs, check, traces
from tests.robustness.history import History
from tests.robustness.scenes import Client, connected, play
from tests.support.process import ForkedServers

CONFIG = Path(__file__).with_name("callboard.toml")
CLIENTS = 4
LIFE = 0.6
"""The longest that a server lives before it is killed at random, in seconds."""
PATIENCE = 1.5
"""How long a server has to come to its fault point, in seconds."""
ENDING = 40.0
"""How long the scenes have for their end when nobody is killed any more, in seconds."""


@asynccontextmanager
async def forked_servers(
    folder: Path, config: Path = CONFIG, modules: Sequence[str] = ()
) -> AsyncIterator[ForkedServers]:
    """Servers that start quickly, and clients that soon try again."""
    servers = ForkedServers(config, folder / "servers.stderr", modules)
    longest, _backoff.LONGEST_SECONDS = _backoff.LONGEST_SECONDS, 0.1
    await servers.open()
    try:
        yield servers
    finally:
        await servers.close()
        _backoff.LONGEST_SECONDS = longest


async def survive(servers: ForkedServers, db: Path, kills: int, seed: int) -> Verdict:
    """Kills the servers of one database so often, and returns what that came to.

    Args:
        servers: Where the servers come from.
        db: The database, a new file.
        kills: How often; once more before the clients come to their end.
        seed: Decides what the clients do and when a server is killed.
    """
    chance = random.Random(seed)
    await servers.start(db)
    port = await servers.ready()
    history, stop = History(), asyncio.Event()
    async with AsyncExitStack() as stack:
        clients = []
        for number in range(CLIENTS):
            client = connected(f"127.0.0.1:{port}", f"{number}", history, chance.getrandbits(32))
            clients.append(await stack.enter_async_context(client))
        home = await clients[0].sdk.threads.create()
        for each in clients:
            each.home = home.thread_id
        playing = [asyncio.create_task(play(each, stop)) for each in clients]
        moments: Counter[str] = Counter()
        for _ in range(kills):
            moments[await _kill(servers, chance)] += 1
            await _start(servers, db, port, chance)
        moments[await _kill(servers, chance)] += 1
        await servers.start(db, port)
        stop.set()
        broken = await _finish(clients, playing)
        logs = await all_logs(clients[0].sdk)
    await servers.kill()
    verdict = check(logs, history, traces(db), db)
    verdict.kills, verdict.moments = moments.total(), moments
    verdict.broken += broken
    return verdict


async def _start(servers: ForkedServers, db: Path, port: int, chance: random.Random) -> None:
    """Starts the next server, half of the time with a point at which it ends itself."""
    fault = ""
    if chance.random() < 0.5:
        fault = f"{chance.choice(faults.POINTS)}:{int(chance.expovariate(1 / 12)) + 1}"
    await servers.start(db, port, fault)


async def _kill(servers: ForkedServers, chance: random.Random) -> str:
    """Waits for the server's end: at its fault point, or after a while by kill -9.

    Returns:
        The fault point, or that it was at random.
    """
    moment = servers.fault.partition(":")[0]
    patience = PATIENCE if servers.fault else chance.uniform(0.0, LIFE)
    try:
        async with asyncio.timeout(patience):
            status = await servers.gone()
    except TimeoutError:
        moment, status = "", await servers.kill()
    assert status == signal.SIGKILL, f"the server ended by itself:\n{servers.errors[-4000:]}"
    return moment or "at random"


async def _finish(clients: Sequence[Client], playing: Sequence[asyncio.Task[None]]) -> list[str]:
    """Waits for the last scenes; returns what went against them, or never came to an end."""
    _, late = await asyncio.wait(playing, timeout=ENDING)
    problems = []
    for client, task in zip(clients, playing, strict=True):
        if task in late:
            task.cancel()
            problems.append(f"{client.began[-1]} does not end: {await _unfinished(client.sdk)}")
        elif error := task.exception():
            problems.append(f"{client.began[-1]} failed: {type(error).__name__}: {error}")
    await asyncio.gather(*playing, return_exceptions=True)
    return problems


async def _unfinished(client: callboard.AsyncClient) -> list[Run]:
    return [run async for run in client.runs.list() if run.state not in callboard.TERMINAL_STATES]
