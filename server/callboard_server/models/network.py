"""How providers are reached, whichever SDK calls them."""

from __future__ import annotations

import ssl
from functools import cache

import httpx2

TIMEOUT = httpx2.Timeout(connect=5, read=120, write=30, pool=10)
"""In seconds. The time to read is between two events of a stream, not for all of it: Anthropic
sends pings while a model thinks."""


@cache
def certificates() -> ssl.SSLContext:
    """Returns whom to trust, as the environment says.

    Once for all clients: to load it takes some 60 ms, in which nothing else gets on.
    """
    return httpx2.create_ssl_context()
