"""Who answers in a demo: providers of models whose keys are set, and stand-ins for the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from stage import say
from standins import anthropic, openai
from standins.http import Handler, HttpServer, serving
from standins.replies import Script


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider of models, and how to stand in for it."""

    vendor: str
    key: str
    url: str
    """The variable that says where it is."""
    path: str
    """What stands there before the paths of its API."""
    scripted: Callable[[Script], Handler]


PROVIDERS = {
    "anthropic": Provider(
        "Anthropic", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "", anthropic.scripted
    ),
    "openai": Provider("OpenAI", "OPENAI_API_KEY", "OPENAI_BASE_URL", "/v1", openai.scripted),
}


class Cast:
    """Who answers, providers or their stand-ins.

    Args:
        stack: Ends the stand-ins.
        script: Makes the script of a stand-in, for the vendor in whose place it stands.
    """

    def __init__(self, stack: AsyncExitStack, script: Callable[[str], Script]) -> None:
        self.environment: dict[str, str] = {}
        """What whoever calls them has to know of it."""
        self._stack = stack
        self._script = script
        self._standins: dict[str, HttpServer] = {}

    async def add(self, model: str) -> None:
        """Sees to it that somebody answers for a model, and says who does."""
        name = model.partition(":")[0]
        provider = PROVIDERS.get(name)
        if provider is None:
            raise SystemExit(f"{model!r}: name a model as anthropic:MODEL or openai:MODEL")
        if os.environ.get(provider.key):
            say("server", f"{provider.key} is set: {model} is called at {provider.vendor}.")
        elif name not in self._standins:
            server = await self._stack.enter_async_context(
                serving(provider.scripted(self._script(provider.vendor)))
            )
            self._standins[name] = server
            self.environment |= {provider.key: "stand-in", provider.url: server.url + provider.path}
            say(
                "server",
                f"{provider.key} is not set: in the place of {provider.vendor} a stand-in answers. "
                "It speaks the wire format, and is no language model.",
            )

    def standin_of(self, model: str) -> HttpServer | None:
        """Returns who stands in for the provider of a model, if anybody does."""
        return self._standins.get(model.partition(":")[0])
