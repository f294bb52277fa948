"""Providers of models: where they are, their keys, and the one client that their models share."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from callboard_server.config import BUILT_IN, ProviderSettings
from callboard_server.models.base import Model, ModelSpecError


class Client(Protocol):
    """What a provider's SDK calls with."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Adapter:
    """A provider's SDK as it is used here."""

    open_client: Callable[[str, str | None], Client]
    """Takes the key and the address."""
    make_model: Callable[[str, str, Any, str], Model]
    """Takes the name, the provider's name for it, the client and a digest of the account."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """An API that providers speak."""

    package: str
    """The SDK, which an extra of the same name installs."""
    key_env: str
    """Where the vendor's own key is found."""
    load: Callable[[], _Adapter]
    """Imports the SDK, which takes its time."""


def _anthropic() -> _Adapter:
    from callboard_server.models.anthropic import AnthropicModel, open_client

    return _Adapter(open_client, AnthropicModel)


def _openai() -> _Adapter:
    from callboard_server.models.openai_client import open_client
    from callboard_server.models.openai_responses import ResponsesModel

    return _Adapter(open_client, ResponsesModel)


def _openai_chat() -> _Adapter:
    from callboard_server.models.openai_chat import ChatCompletionsModel
    from callboard_server.models.openai_client import open_client

    return _Adapter(open_client, ChatCompletionsModel)


_KINDS = {
    "anthropic": _Kind("anthropic", "ANTHROPIC_API_KEY", _anthropic),
    "openai": _Kind("openai", "OPENAI_API_KEY", _openai),
    "openai-chat": _Kind("openai", "OPENAI_API_KEY", _openai_chat),
}
_NO_KEY = "none"
"""What is sent where a server needs no key: the SDKs insist on one."""


class Provider:
    """A provider of models.

    Args:
        name: What specs call it.
        settings: Where it is.
        base: The folder that its key's file is named from.
    """

    def __init__(self, name: str, settings: ProviderSettings, base: Path) -> None:
        self._name = name
        self._settings = settings
        self._base = base
        self._kind = _KINDS[settings.kind or name]
        self._adapter: _Adapter | None = None
        self._client: Client | None = None
        self._account = ""
        """A digest of what the client calls, and with which key."""

    def check(self) -> None:
        """Checks what it needs, without a call.

        Raises:
            ModelSpecError: Its key or its package is missing; the message says what to do.
        """
        package = self._kind.package
        if find_spec(package) is None:
            raise ModelSpecError(
                f"{self._name} needs a package that is not installed: "
                f'pip install "callboard[{package}]"'
            )
        self._key()

    async def open(self, model: str) -> Model:
        """Opens a model by the provider's name for it.

        Raises:
            ModelSpecError: As `check` does.
        """
        if self._adapter is None:
            self.check()
            self._adapter = await asyncio.to_thread(self._kind.load)
        if self._client is None:
            key, url = self._key(), self._settings.base_url
            self._client = self._adapter.open_client(key, url)
            self._account = hashlib.sha256(f"{url or ''}\n{key}".encode()).hexdigest()
        name = f"{self._name}:{model}"
        return self._adapter.make_model(name, model, self._client, self._account)

    async def close(self) -> None:
        """Closes the client. The next model opens another."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _key(self) -> str:
        settings = self._settings
        if settings.api_key_file is not None:
            return self._read_key(settings.api_key_file)
        variable = settings.api_key_env
        if variable is None:
            if settings.base_url is not None:
                # A vendor's key goes to the vendor, unless the configuration says otherwise.
                return _NO_KEY
            variable = self._kind.key_env
        key = os.environ.get(variable, "").strip()
        if not key:
            raise ModelSpecError(
                f"{self._name} has no key: set the environment variable {variable}, "
                f"or name another place in [providers.{self._name}]"
            )
        return key

    def _read_key(self, file: str) -> str:
        try:
            key = (self._base / file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ModelSpecError(
                f"{self._name} has no key: its api_key_file {file} cannot be read: {reason}"
            ) from None
        if not key:
            raise ModelSpecError(f"{self._name} has no key: its api_key_file {file} is empty")
        return key


def make_providers(settings: Mapping[str, ProviderSettings], base: Path) -> dict[str, Provider]:
    """Returns the providers of a configuration, and those that are always there, by name."""
    built_in = {name: ProviderSettings() for name in BUILT_IN}
    return {name: Provider(name, each, base) for name, each in {**built_in, **settings}.items()}
