"""A server with agents to talk to, some of whom speak by a stand-in of a model's provider."""

from __future__ import annotations

import asyncio
import io
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from callboard import Client
from standins import anthropic
from standins.http import Exchange, Handler, HttpServer
from standins.replies import Reply
from tests.cli.conftest import Result, Run, read_ready, running
from tests.cli.terminal import PATIENCE

HERE = Path(__file__).parent
FUNCTIONS = "painter chooser boss starter echo number sleeper novelist writer".split()
CONFIG = """
[server]
grace = 0.1

[providers.standin]
kind = "anthropic"
base_url = "{url}"

[agents.speaker]
model = "standin:m"
tools = ["agents.py:search", "agents.py:read", "agents.py:open_door", "agents.py:look"]
"""
T = TypeVar("T")
Say = Callable[..., Result]


class StandIn:
    """A provider, in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._handlers: list[Handler] = []
        self._server = HttpServer(self._answer)
        self.run(self._server.open())

    @property
    def url(self) -> str:
        return self._server.url

    def will(self, *answers: Reply | Handler) -> None:
        """Says what the next requests get."""
        self._handlers = [
            _replying(answer) if isinstance(answer, Reply) else answer for answer in answers
        ]

    def call(self, function: Callable[[], object]) -> None:
        """Calls something in the thread, such as what opens a gate."""
        self._loop.call_soon_threadsafe(function)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Does something in the thread, and waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def close(self) -> None:
        self.run(self._server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _answer(self, exchange: Exchange) -> None:
        await self._handlers.pop(0)(exchange)


def _replying(reply: Reply) -> Handler:
    return anthropic.scripted(lambda _: reply)


@pytest.fixture(scope="session")
def standin() -> Iterator[StandIn]:
    standin = StandIn()
    yield standin
    standin.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, standin: StandIn) -> Path:
    """The configuration of a server."""
    folder = tmp_path_factory.mktemp("talk")
    shutil.copy(HERE / "agents.py", folder)
    functions = (f'[agents.{name}]\nentrypoint = "agents.py:{name}"\n' for name in FUNCTIONS)
    (folder / "callboard.toml").write_text(CONFIG.format(url=standin.url) + "".join(functions))
    return folder


@pytest.fixture(scope="session")
def address(folder: Path) -> Iterator[str]:
    with running("--json", "serve", "--port", "0", cwd=folder) as process:
        yield read_ready(process)["address"]


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


@pytest.fixture
def say(cli: Run, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Pipes lines into a conversation."""

    def talk(text: str, *arguments: str) -> Result:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        return cli("chat", *arguments)

    return talk
