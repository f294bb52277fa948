"""A server that is killed again and again, while clients play their scenes on it."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import callboard
from callboard import Run, _backoff
from callboard_server import faults
from tests.robustness import scenes, supervision
from tests.robustness.checks import Verdict, all_logs, check, traces
from tests.robustness.history import History
from tests.robustness.scenes import Client, connected, play
from tests.support.process import ServerProcess

CONFIG = Path(__file__).with_name("callboard.toml")
SCENES = [*scenes.SCENES, *supervision.SCENES]
CLIENTS = 4
LIFE = 0.6
"""The longest that a server lives before it is killed at random, in seconds."""
PATIENCE = 1.5
"""How long a server has to come to its fault point, in seconds."""
ENDING = 40.0
"""How long the scenes have for their end when nobody is killed any more, in seconds."""


def sabotaged(folder: Path, sabotage: str) -> Path:
    """The configuration of the killed servers, with an agent whose file changes what they do."""
    for file in ("crew.py", "rules.toml"):
        shutil.copy(CONFIG.with_name(file), folder)
    shutil.copy(CONFIG.with_name("sabotage") / f"{sabotage}.py", folder)
    config = folder / CONFIG.name
    added = f'\n[agents.saboteur]\nentrypoint = "{sabotage}.py:saboteur"\n'
    config.write_text(CONFIG.read_text("utf-8") + added)
    return config


@contextmanager
def quick_clients() -> Iterator[None]:
    """Lets clients that lost their server soon try again."""
    longest, _backoff.LONGEST_SECONDS = _backoff.LONGEST_SECONDS, 0.1
    try:
        yield
    finally:
        _backoff.LONGEST_SECONDS = longest


@asynccontextmanager
async def mortal(db: Path, config: Path = CONFIG) -> AsyncIterator[ServerProcess]:
    """A server that is about to be killed, and clients that bear it."""
    server = ServerProcess(config, db)
    with quick_clients():
        await server.start()
        try:
            yield server
        finally:
            await server.clean_up()


async def survive(db: Path, kills: int, seed: int, config: Path = CONFIG) -> Verdict:
    """Kills the servers of one database so often, and returns what that came to.

    Args:
        db: The database, a new file.
        kills: How often; once more before the clients come to their end.
        seed: Decides what the clients do and when a server is killed.
        config: What is served.
    """
    async with mortal(db, config) as server:
        return await _survive(server, kills, random.Random(seed))


async def _survive(server: ServerProcess, kills: int, chance: random.Random) -> Verdict:
    history, stop = History(), asyncio.Event()
    async with AsyncExitStack() as stack:
        clients = []
        for number in range(CLIENTS):
            client = connected(server.address, f"{number}", history, chance.getrandbits(32))
            clients.append(await stack.enter_async_context(client))
        home = await clients[0].sdk.threads.create()
        for each in clients:
            each.home = home.thread_id
        playing = [asyncio.create_task(play(each, stop, SCENES)) for each in clients]
        moments: Counter[str] = Counter()
        for _ in range(kills):
            moments[await _kill(server, chance)] += 1
            _start(server, chance)
        moments[await _kill(server, chance)] += 1
        server.spawn()
        stop.set()
        broken = await _finish(clients, playing)
        logs = await all_logs(clients[0].sdk)
    await server.kill()
    verdict = check(logs, history, traces(server.db), server.db)
    verdict.kills, verdict.moments = moments.total(), moments
    verdict.broken += broken
    return verdict


def _start(server: ServerProcess, chance: random.Random) -> None:
    """Starts the next server, half of the time with a point at which it ends itself."""
    fault = ""
    if chance.random() < 0.5:
        fault = f"{chance.choice(faults.POINTS)}:{int(chance.expovariate(1 / 12)) + 1}"
    server.spawn(fault)


async def _kill(server: ServerProcess, chance: random.Random) -> str:
    """Waits for the server's end: at its fault point, or after a while by kill -9.

    Returns:
        The fault point, or that it was at random.
    """
    moment = server.fault.partition(":")[0]
    patience = PATIENCE if server.fault else chance.uniform(0.0, LIFE)
    try:
        async with asyncio.timeout(patience):
            code = await server.gone()
    except TimeoutError:
        moment, code = "", await server.kill()
    assert code == -signal.SIGKILL, f"the server ended by itself:\n{server.errors[-4000:]}"
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
