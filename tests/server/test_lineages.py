"""Three assistants of three providers on one thread for 50 turns: what each of them is sent.

The server is a process of its own, which is killed half-way. Each provider is a stand-in that
refuses what the provider would, and keeps every request.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from callboard import AsyncClient, Run, RunState, text_of
from callboard._messages import MessageLike
from callboard.v1.message_pb2 import ContentBlock, File, Image, Text
from standins.http import HttpServer, serving
from standins.openai import broken_seals
from standins.replies import Call, Reply
from tests.support.chatting import RULES, Kind, answering
from tests.support.gates import PATIENCE
from tests.support.process import ServerProcess
from tests.support.serving import sound_log

TURNS = 50
ORDER = "ABCABBCAACCB"
"""Who has the next turn, over and over."""

TOOLS = '''\
from callboard_server import ToolError


def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word} is looked up"


def burn(word: str) -> str:
    """Destroy a word."""
    raise ToolError(f"{word} does not burn")
'''
AGENT = """\
[agents.agent]
model = "a:m"
system = "You are the first."
tools = ["tools.py:look_up", "tools.py:burn"]
"""
PROVIDER = """\
[providers.{name}]
kind = "{kind}"
base_url = "{url}/v1"
"""
DOT = ContentBlock(image=Image(media_type="image/png", data=b"\x89PNG"))
LIST = ContentBlock(file=File(media_type="text/plain", name="list.txt", data=b"milk, eggs"))


@dataclass
class Speaker:
    """An assistant, as its provider knows it."""

    name: str
    kind: Kind
    replies: deque[Reply] = field(default_factory=deque)
    """What it will say."""
    answers: list[str] = field(default_factory=list)
    """What its turns came to."""
    thoughts: list[str] = field(default_factory=list)
    http: HttpServer = field(init=False)
    assistant_id: str = ""

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [request.body for request in self.http.requests]

    def reply(self, body: Any) -> Reply:
        return self.replies.popleft()

    def prepare(self, turn: int) -> None:
        """Decides what it will do in a turn."""
        self.replies += self._turn(turn)
        self.answers.append(self.replies[-1].text)

    def _turn(self, turn: int) -> Iterator[Reply]:
        match turn % 4:
            case 1:
                yield Reply(self._secret("mutters", turn), [self._call("look_up", turn, 1)])
            case 2:
                calls = [self._call("look_up", turn, 1), self._call("burn", turn, 2)]
                yield Reply("", calls, thinking=self._think(turn, 1))
            case 3:
                yield Reply("", [self._call("burn", turn, 1)], thinking=self._think(turn, 1))
                yield Reply(self._secret("sighs", turn), [self._call("look_up", turn, 2)])
        thinking = self._think(turn, 3) if turn % 3 else ""
        yield Reply(f"{self.name} answers {turn}.", thinking=thinking)

    def _secret(self, verb: str, turn: int, number: int = 0) -> str:
        return f"{self.name} {verb} {turn}.{number}."

    def _think(self, turn: int, number: int) -> str:
        self.thoughts.append(self._secret("thinks", turn, number))
        return self.thoughts[-1]

    def _call(self, tool: str, turn: int, number: int) -> Call:
        word = self._secret("asks", turn, number)
        return Call(tool, json.dumps({"word": word}), f"call_{self.name}_{turn}_{number}")

    @property
    def secrets(self) -> list[str]:
        """What no request of another may hold."""
        verbs = ("mutters", "sighs", "thinks", "asks")
        return [*(f"{self.name} {verb}" for verb in verbs), f"call_{self.name}", *self._sealed()]

    def _sealed(self) -> list[str]:
        """What its provider gave it to bring back."""
        last = self.bodies[-1]
        blocks = [block for role, block in entries(self.kind, last) if role == "assistant"]
        return [block[key] for block in blocks for key in SEALED if key in block]


SEALED = ("signature", "encrypted_content")


def entries(kind: Kind, body: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Returns what a request grows by: blocks, items or messages, and who says each."""
    if kind == "anthropic":
        return [(each["role"], block) for each in body["messages"] for block in each["content"]]
    said = body["input"] if kind == "openai" else body["messages"]
    return [(each.get("role", "assistant"), each) for each in said]


def rest(kind: Kind, body: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what stays the same in all requests."""
    grows = {"anthropic": "messages", "openai": "input", "openai-chat": "messages"}[kind]
    return {name: value for name, value in body.items() if name != grows}


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[tuple[ServerProcess, dict[str, Speaker]]]:
    """A server, and three assistants: the default one of an agent, and two with other models."""
    speakers = {
        "A": Speaker("agent", "anthropic"),
        "B": Speaker("Bob", "openai"),
        "C": Speaker("Cem", "openai-chat"),
    }
    async with AsyncExitStack() as stack:
        config = AGENT
        for letter, speaker in speakers.items():
            handler = answering(speaker.kind, speaker.reply)
            speaker.http = await stack.enter_async_context(serving(handler))
            url = speaker.http.url
            config += PROVIDER.format(name=letter.lower(), kind=speaker.kind, url=url)
        (folder / "tools.py").write_text(TOOLS)
        (folder / "callboard.toml").write_text(config)
        server = ServerProcess(folder / "callboard.toml", folder / "jobs.db")
        stack.push_async_callback(server.clean_up)
        await server.start()
        yield server, speakers


async def configure(client: AsyncClient, speakers: Mapping[str, Speaker]) -> None:
    speakers["A"].assistant_id = "agent"
    for letter, system in (("B", "You are the second."), ("C", "You are the third.")):
        speaker, config = speakers[letter], {"model": f"{letter.lower()}:m", "system": system}
        made = await client.assistants.create("agent", name=speaker.name, config=config)
        speaker.assistant_id = made.assistant_id


def question(turn: int) -> MessageLike:
    """Returns what is asked in a turn; now and then by somebody with a name, and with more."""
    content = [ContentBlock(text=Text(text=f"Question {turn}?"))]
    if turn % 5 == 0:
        content.append(DOT if turn % 2 else LIST)
    if turn % 7 == 0:
        return {"role": "user", "author": "Eve", "content": content}
    return {"role": "user", "content": content}


async def play(
    client: AsyncClient, speakers: Mapping[str, Speaker], thread_id: str, turns: Sequence[int]
) -> None:
    """Has turns played, some of them two at the same time."""
    waiting: list[Run] = []
    for turn in turns:
        speaker = speakers[ORDER[turn % len(ORDER)]]
        speaker.prepare(turn)
        run = await client.runs.create(
            speaker.assistant_id,
            question(turn),
            thread_id=thread_id,
            multitask_strategy="concurrent" if waiting else "enqueue",
        )
        waiting.append(run)
        following = speakers[ORDER[(turn + 1) % len(ORDER)]]
        if turn % 6 != 3 or following is speaker or turn == turns[-1]:
            await finish(client, waiting)


async def finish(client: AsyncClient, waiting: list[Run]) -> None:
    for run in waiting:
        done = await client.runs.wait(run.run_id, until="done", timeout=PATIENCE)
        assert done.state == RunState.RUN_STATE_SUCCEEDED, done
    waiting.clear()


@pytest.mark.timeout(120)
async def test_three_assistants_keep_apart_over_fifty_turns(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, speakers), AsyncClient(server.address) as client:
        await configure(client, speakers)
        thread_id = (await client.threads.create()).thread_id
        await play(client, speakers, thread_id, range(TURNS // 2))
        await server.kill()
        await server.start()
        await play(client, speakers, thread_id, range(TURNS // 2, TURNS))
        said = [text_of(message) async for message in client.threads.messages(thread_id)]
        await sound_log(client, thread_id)
    assert sum(len(speaker.answers) for speaker in speakers.values()) == TURNS
    for speaker in speakers.values():
        assert not speaker.replies
        assert set(speaker.answers) <= set(said)
        check_requests(speaker)
        others = [each for each in speakers.values() if each is not speaker]
        check_words(speaker, others)


def check_requests(speaker: Speaker) -> None:
    """Each request is right, and goes on from the one before."""
    kind, bodies = speaker.kind, speaker.bodies
    for body in bodies:
        assert not (wrong := RULES[kind](body)), wrong
        assert kind != "openai" or not broken_seals(body)
    for before, after in pairwise(bodies):
        assert rest(kind, before) == rest(kind, after)
        old, new = entries(kind, before), entries(kind, after)
        assert new[: len(old)] == old
        assert len(new) > len(old)


def check_words(speaker: Speaker, others: Sequence[Speaker]) -> None:
    """An assistant has its own words as its own, those of others as theirs, and no secrets."""
    last = entries(speaker.kind, speaker.bodies[-1])
    own = json.dumps([entry for role, entry in last if role in ("assistant", "tool")])
    heard = json.dumps([entry for role, entry in last if role == "user"])
    # The last answer is in no request yet.
    assert all(answer in own and answer not in heard for answer in speaker.answers[:-1])
    if speaker.kind != "openai-chat":
        # All that it thought came back with its signature.
        assert all(thought in own for thought in speaker.thoughts[:-1])
    for other in others:
        everything = json.dumps(speaker.bodies)
        assert not [secret for secret in other.secrets if secret in everything]
        assert other.answers[0] in heard
        for answer in other.answers:
            assert answer not in own
            tagged = f'<agent name="{other.name}">{answer}</agent>'
            assert heard.count(answer) == heard.count(json.dumps(tagged)[1:-1])
