"""A server is killed between the events of a provider: no answer is paid for twice.

The stand-in of the provider stops behind the first event of each type, the server is killed there
and started again, and the stand-in goes on to the next type in the next try of the same answer.
Then the server is killed in the commit of the answer, while the tools run that it asked for, and
when its commit is known.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from callboard import Delta, Event, RunState, text_of
from callboard._async.streams import AsyncEventStream
from callboard.v1.message_pb2 import Role
from standins.http import Exchange, HttpServer, serving
from standins.openai import broken_seals
from standins.replies import Call, Reply
from tests.robustness.history import History
from tests.robustness.killing import mortal
from tests.robustness.scenes import connected
from tests.support.chatting import KINDS, RULES, Kind, answering
from tests.support.gates import PATIENCE
from tests.support.process import ServerProcess
from tests.support.serving import sound_log

CALLS = (Call("note", '{"text": "milk"}', "call_note"), Call("look", "{}", "call_look"))
REPLIES = (
    Reply("I do so.", CALLS, thinking="Shall I?", input_tokens=100),
    Reply("It is done.", thinking="Is it?", input_tokens=200),
)

TOOLS = '''\
import asyncio
from pathlib import Path

from callboard_server import Context, tool

TRACES = Path(__file__).with_name("traces")


@tool
async def note(text: str, ctx: Context) -> str:
    """Write something down."""
    await enter("note", ctx)
    return f"{text} is written down"


@tool(idempotent=True)
async def look(ctx: Context) -> str:
    """Look."""
    await enter("look", ctx)
    return "there is nothing"


async def enter(name: str, ctx: Context) -> None:
    with TRACES.open("a") as file:
        file.write(f"{name}\\n")
    await ctx.progress(name)
    if TRACES.read_text().split().count(name) == 1:
        # The first time it is killed.
        await asyncio.Event().wait()
'''
CONFIG = """\
[server]
grace = 0.2

[providers.standin]
kind = "{kind}"
base_url = "{url}"
api_key_file = "key"

[agents.scribe]
model = "standin:m"
system = "You write things down."
tools = ["tools.py:note", "tools.py:look"]
"""


@dataclass(frozen=True)
class Stop:
    """An answer that goes no further for now."""

    exchange: Exchange
    events: Sequence[bytes]
    sent: int
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def text(self) -> str:
        """What a reader sees of the events that were sent."""
        return "".join(shown(parse(event)) for event in self.events[: self.sent])


class Provider:
    """A stand-in that stops where it is told to.

    Args:
        kind: What it speaks.
    """

    def __init__(self, kind: Kind) -> None:
        self.handle = answering(kind, lambda body: REPLIES[number_of(body)], self._gate)
        self.places: list[int | None] = [0 for _ in REPLIES]
        """How many events of each answer are sent before it stops; None for all of them."""
        self._stops: asyncio.Queue[Stop] = asyncio.Queue()

    async def stopped(self) -> Stop:
        """Waits until it stops."""
        async with asyncio.timeout(PATIENCE):
            return await self._stops.get()

    async def _gate(self, exchange: Exchange, events: Sequence[bytes], sent: int) -> None:
        place = self.places[number_of(exchange.request.body)]
        if sent == place:
            stop = Stop(exchange, events, sent)
            self._stops.put_nowait(stop)
            await stop.go_on.wait()
        elif sent == len(events) and place is not None:
            await exchange.left.wait()


def number_of(body: Any) -> int:
    """Returns which answer a request asks for."""
    return int("call_note" in json.dumps(body))


def parse(event: bytes) -> Any:
    """Reads the data of an event."""
    data = event.decode().partition("data: ")[2].strip()
    return None if data == "[DONE]" else json.loads(data)


def shown(data: Any) -> str:
    """Returns what a reader sees of an event, in whatever format."""
    match data:
        case {"choices": [{"delta": delta}]}:
            function = delta.get("tool_calls", [{}])[0].get("function", {})
            parts = [delta.get("reasoning_content"), delta.get("content")]
            return "".join(part or "" for part in [*parts, function.get("arguments")])
        case {"type": "content_block_delta", "delta": delta}:
            return next(
                (delta[key] for key in ("text", "thinking", "partial_json") if key in delta), ""
            )
        case {"type": str(), "delta": str(text)}:
            return text
    return ""


def type_of(data: Any) -> str:
    """Returns what tells kinds of events apart."""
    match data:
        case {"choices": [{"delta": delta, "finish_reason": reason}]}:
            return f"{[*delta]} {reason}"
        case {"type": kind}:
            parts = (data.get(name) for name in ("delta", "content_block", "item", "part"))
            return " ".join([kind, *(part["type"] for part in parts if "type" in (part or ""))])
    return ""


def is_end(data: Any) -> bool:
    """Whether an event makes an answer whole."""
    match data:
        case {"choices": [{"finish_reason": str()}]}:
            return True
        case {"type": "message_stop" | "response.completed"}:
            return True
    return False


class Witness:
    """What a client sees of a thread, over all servers."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._text: Counter[str] = Counter()
        self._last_message = ""
        self._news = asyncio.Condition()

    async def follow(self, stream: AsyncEventStream) -> None:
        async for item in stream:
            async with self._news:
                if isinstance(item, Delta):
                    self._text[item.message_id] += len(item.text)
                    self._last_message = item.message_id
                else:
                    self.events.append(item)
                self._news.notify_all()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(holds)

    async def saw(self, text: str) -> None:
        """Waits until so much was seen of a message that is in the making."""
        if text:
            await self.until(lambda: self._text[self._last_message] == len(text))

    async def counted(self, count: int, holds: Callable[[Event], bool]) -> None:
        """Waits for a number of events."""
        await self.until(lambda: sum(map(holds, self.events)) == count)


@dataclass
class Theatre:
    """A server that is killed, its provider, and whoever looks on."""

    server: ServerProcess
    provider: Provider
    witness: Witness = field(default_factory=Witness)
    kills: Counter[int] = field(default_factory=Counter)
    """By answer, how often the server was killed before that was committed."""
    types: set[str] = field(default_factory=set)
    """The types of events behind which it was killed."""

    async def start_again(self) -> None:
        await self.server.kill()
        await self.server.start()

    async def kill_between_events(self, number: int) -> None:
        """Kills the server at every place of an answer, and in the commit of it."""
        stop = await self.provider.stopped()
        for place in self._places(stop.events)[1:]:
            await self.witness.saw(stop.text)
            self.provider.places[number] = place
            await self.start_again()
            stop = await self.provider.stopped()
            self.kills[number] += 1
        with locked(self.server.db):
            stop.go_on.set()
            async with asyncio.timeout(PATIENCE):
                # It has the whole answer, and cannot commit it.
                await stop.exchange.left.wait()
            await self.server.kill()
        self.provider.places[number] = None
        self.kills[number] += 1
        await self.start_again()

    def _places(self, events: Sequence[bytes]) -> list[int]:
        """Returns how many events are sent before each kill.

        The last one is followed by the event that makes the answer whole.
        """
        read = [parse(event) for event in events]
        [whole] = [at for at, data in enumerate(read) if is_end(data)]
        places = {0, whole}
        for sent, data in enumerate(read[:whole], start=1):
            if type_of(data) not in self.types:
                self.types.add(type_of(data))
                places.add(sent)
        return sorted(places)


@contextmanager
def locked(db: Path) -> Iterator[None]:
    """Keeps a database from being written to."""
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def is_answer(event: Event) -> bool:
    return event.message_added.message.role == Role.ROLE_ASSISTANT


@asynccontextmanager
async def theatre(folder: Path, kind: Kind) -> AsyncIterator[tuple[Theatre, HttpServer]]:
    provider = Provider(kind)
    (folder / "tools.py").write_text(TOOLS)
    (folder / "key").write_text("sk-standin")
    async with serving(provider.handle) as http:
        config, db = folder / "callboard.toml", folder / "jobs.db"
        config.write_text(CONFIG.format(kind=kind, url=f"{http.url}/v1"))
        async with mortal(db, config) as server:
            yield Theatre(server, provider), http


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
async def test_no_answer_is_paid_for_twice(kind: Kind, tmp_path: Path) -> None:
    async with theatre(tmp_path, kind) as (stage, http):
        address, witness = stage.server.address, stage.witness
        async with connected(address, "client", History(), 1) as client:
            run = await client.sdk.runs.create("scribe", "Note milk.")
            stream = client.sdk.threads.stream(run.thread_id, until="never", deltas=True)
            following = asyncio.create_task(witness.follow(stream))
            await stage.kill_between_events(0)
            await witness.counted(2, lambda event: event.HasField("run_progress"))
            # Both tools are at work.
            await stage.start_again()
            await stage.kill_between_events(1)
            await witness.counted(2, is_answer)
            await stage.start_again()
            run = await client.sdk.runs.wait(run.run_id, until="done", timeout=PATIENCE)
            log = await sound_log(client.sdk, run.thread_id)
            following.cancel()
    bodies: list[list[Any]] = [[], []]
    for request in http.requests:
        assert not (wrong := RULES[kind](request.body)), wrong
        assert kind != "openai" or not broken_seals(request.body)
        bodies[number_of(request.body)].append(request.body)
    for number, asked in enumerate(bodies):
        assert len(asked) == stage.kills[number] + 1
        assert all(body == asked[0] for body in asked)
    assert (run.state, text_of(run.outcome.result)) == (RunState.RUN_STATE_SUCCEEDED, "It is done.")
    assert (run.usage.model_calls, run.usage.input_tokens) == (2, 300)
    assert Counter((tmp_path / "traces").read_text().split()) == {"note": 1, "look": 2}
    results = [
        b.tool_result
        for e in log
        for b in e.message_added.message.content
        if b.HasField("tool_result")
    ]
    assert {r.name: (r.outcome_unknown, r.is_error) for r in results} == {
        "note": (True, True),
        "look": (False, False),
    }
    assert witness.events == log[: len(witness.events)]
