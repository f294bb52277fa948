"""Whom a chat agent may call: the assistants behind the entries of its configuration."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from callboard.errors import NotFound
from callboard.v1.assistant_pb2 import Assistant
from callboard_server.config import CallableAssistant, is_uuid

if TYPE_CHECKING:
    from callboard import AsyncClient

TOOL_PREFIX = "ask_"
"""What the names of tools begin with that ask somebody."""
_TOOL_NAME = 60
"""How much of a name goes into that of a tool, which may be numbered behind it."""


@dataclass(frozen=True, slots=True)
class Callee:
    """Somebody whom a chat agent may call."""

    entry: CallableAssistant
    """What the configuration says."""
    assistant: Assistant | None = None
    """What was found behind that; None where it is gone, or was not looked up."""
    does: str = ""
    """What it, or else its agent, says of itself."""
    number: int = 1
    """Which one it is of those of its name, in the same mode."""

    @property
    def name(self) -> str:
        """What the model calls it, where it works in the background."""
        name = self._plain_name
        return name if self.number == 1 else f"{name} {self.number}"

    @property
    def tool_name(self) -> str:
        """The tool that calls it, where it is waited for."""
        plain = re.sub(r"[^A-Za-z0-9-]+", "_", self._plain_name).strip("_") or "assistant"
        name = f"{TOOL_PREFIX}{plain}"[:_TOOL_NAME]
        return name if self.number == 1 else f"{name}_{self.number}"

    @property
    def is_waited_for(self) -> bool:
        """Whether it is called by a tool that waits."""
        return self.entry.mode == "sync"

    @property
    def _plain_name(self) -> str:
        return self.assistant.name if self.assistant else self.entry.id

    @property
    def description(self) -> str:
        """What it does, and what it knows."""
        knows = "It knows this conversation." if self.entry.context == "fork" else ""
        return " ".join(part for part in (self.entry.description or self.does, knows) if part)

    @property
    def is_name_known(self) -> bool:
        """Whether its name is: an assistant's stands in the database, an agent's in its entry."""
        return self.assistant is not None or not is_uuid(self.entry.id)

    def origin(self, own: Sequence[Callee]) -> Callee | None:
        """Returns which of those whom an agent names it is; None where it is none of them."""
        alike = [
            each
            for each in own
            if (each.entry.id, each.entry.mode) == (self.entry.id, self.entry.mode)
        ]
        same = [each for each in alike if each.entry.version == self.entry.version]
        # An entry without a version stands for all.
        whatever = [each for each in alike if each.entry.version is None]
        return next(iter(same + whatever), None)


def unseen(entries: Iterable[CallableAssistant]) -> list[Callee]:
    """Returns whom entries name, as far as that is known without a look into the database."""
    return _numbered([Callee(entry) for entry in entries])


async def look_up(client: AsyncClient, entries: Iterable[CallableAssistant]) -> list[Callee]:
    """Returns whom entries name; those who are gone have no assistant."""
    return _numbered(await asyncio.gather(*(_find(client, entry) for entry in entries)))


def present(found: Sequence[Callee]) -> list[Callee]:
    """Returns those who are there of those who were looked up.

    Where nobody is left to work in the background, those who are gone stand there all the same: so
    the supervisor can still look after what it has launched before.
    """
    there = [callee for callee in found if callee.assistant is not None]
    if all(callee.is_waited_for for callee in there):
        there += [callee for callee in found if not callee.is_waited_for]
    return _numbered([replace(callee, number=1) for callee in there])


async def _find(client: AsyncClient, entry: CallableAssistant) -> Callee:
    try:
        assistant = await client.assistants.get(entry.id, version=entry.version)
        agent = await client.assistants.get_agent(assistant.agent)
    except NotFound:
        return Callee(entry)
    return Callee(entry, assistant, assistant.description or agent.description)


def _numbered(callees: Sequence[Callee]) -> list[Callee]:
    """Tells those apart whose names are the same."""
    numbered: list[Callee] = []
    for callee in callees:
        while any(_is_alike(callee, other) for other in numbered):
            callee = replace(callee, number=callee.number + 1)
        numbered.append(callee)
    return numbered


def _is_alike(one: Callee, other: Callee) -> bool:
    if one.entry.mode != other.entry.mode:
        return False
    if one.is_waited_for:
        return one.tool_name == other.tool_name
    return one.name == other.name


async def who_is_left(client: AsyncClient, callees: Iterable[Callee]) -> list[Callee]:
    """Returns those who can be called now."""
    callees = list(callees)
    found = await asyncio.gather(*(_find(client, callee.entry) for callee in callees))
    return [callee for callee, now in zip(callees, found, strict=True) if now.assistant is not None]
