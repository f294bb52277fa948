"""Posting webhooks: signed, over TLS, and to no address of a private network."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import httpx2

from callboard.webhooks import sign
from callboard_server.config import ConfigError, WebhookSettings
from callboard_server.engine.outbox import LONGEST_PAUSE, Answer, Attempt
from callboard_server.models.network import certificates
from callboard_server.models.retry_after import read_retry_after

_TRANSLATED = [
    ip_network(block) for block in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
]
"""IPv6 addresses that stand for IPv4 ones, which may be private."""
_WORTH_ANOTHER = frozenset({408, 425, 429})
"""Of the answers below 500, those after which another attempt may be taken."""


class _Private(Exception):
    """The receiver's name leads to an address that is not public."""


class HttpDestination:
    """A URL that webhooks are posted to.

    Args:
        name: What the configuration calls it.
        settings: Where it is.
        secret: What signs what is sent.
    """

    def __init__(self, name: str, settings: WebhookSettings, secret: str) -> None:
        self.name = name
        self.settings = settings
        self._secret = secret
        self._url = httpx2.URL(settings.url)
        # A proxy would choose the address: none is used.
        self._client = httpx2.AsyncClient(
            verify=certificates(),
            trust_env=False,
            follow_redirects=False,
            timeout=settings.timeout,
            limits=httpx2.Limits(max_keepalive_connections=0),
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def post(self, delivery_id: str, body: bytes) -> Attempt:
        """Tries to deliver a webhook. Raises nothing that can happen on a network."""
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await self._try_addresses(delivery_id, body)
        except TimeoutError:
            return Attempt(Answer.FAILED, f"no answer within {self.settings.timeout:g} s")
        except _Private:
            return Attempt(
                Answer.FAILED,
                "its address is private, loopback or link-local: "
                f"say allow_private = true in [webhooks.{self.name}] if that is meant",
            )
        except OSError:
            return Attempt(Answer.FAILED, "its name cannot be resolved")
        except httpx2.HTTPError as error:
            return Attempt(Answer.FAILED, f"no connection, or no answer: {type(error).__name__}")

    async def _try_addresses(self, delivery_id: str, body: bytes) -> Attempt:
        addresses = await self._resolve()
        for address in addresses[:-1]:
            try:
                return await self._post_to(address, delivery_id, body)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return await self._post_to(addresses[-1], delivery_id, body)

    async def _resolve(self) -> list[str]:
        """Returns the addresses of the receiver, which are all public if they must be."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._url.host, None, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))
        allowed = self.settings.allow_private
        if not allowed and not all(is_public(ip_address(each)) for each in addresses):
            raise _Private
        return addresses

    async def _post_to(self, address: str, delivery_id: str, body: bytes) -> Attempt:
        """Posts to the very address that was checked; certificates are for the name."""
        signed = sign(self._secret, delivery_id, int(time.time()), body)
        request = self._client.build_request(
            "POST",
            self._url.copy_with(host=address),
            content=body,
            headers={
                **signed,
                "host": self._url.netloc.decode("ascii"),
                "content-type": "application/json",
                "user-agent": "callboard",
            },
            extensions={"sni_hostname": self._url.raw_host.decode("ascii")},
        )
        # What the receiver says beside the status is not read.
        response = await self._client.send(request, stream=True)
        await response.aclose()
        return _judge(response.status_code, response.headers)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one of the public internet's."""
    if not address.is_global or address.is_multicast:
        return False
    return not any(address in block for block in _TRANSLATED if block.version == address.version)


def _judge(status: int, headers: Mapping[str, str]) -> Attempt:
    if 200 <= status < 300:
        return Attempt(Answer.TAKEN)
    if 300 <= status < 400:
        return Attempt(Answer.REFUSED, f"HTTP {status}: redirects are not followed; name the goal")
    if status >= 500 or status in _WORTH_ANOTHER:
        wish = min(read_retry_after(headers) or 0.0, LONGEST_PAUSE)
        return Attempt(Answer.FAILED, f"HTTP {status}", wish)
    return Attempt(Answer.REFUSED, f"HTTP {status}")


def open_destinations(settings: Mapping[str, WebhookSettings], base: Path) -> list[HttpDestination]:
    """Returns the destinations of a configuration.

    Args:
        settings: They, by name.
        base: The folder that files of secrets are named from.

    Raises:
        ConfigError: The secret of one is missing, or is none.
    """
    return [
        HttpDestination(name, each, _secret(name, each, base)) for name, each in settings.items()
    ]


def _secret(name: str, settings: WebhookSettings, base: Path) -> str:
    key = f"webhooks.{name}"
    if settings.secret_env is not None:
        source = f"the environment variable {settings.secret_env}"
        secret = os.environ.get(settings.secret_env)
        if secret is None:
            raise ConfigError(f"{key}.secret_env: {source} is not set")
    else:
        source = str(settings.secret_file)
        try:
            secret = (base / source).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigError(f"{key}.secret_file: {source} cannot be read: {reason}") from None
    secret = secret.strip()
    try:
        sign(secret, "", 0, b"")
    except ValueError as error:
        # What it says is ours, and nothing of the secret.
        raise ConfigError(f"{key}: what {source} holds is none: {error}") from None
    return secret
