"""Page tokens: where a list goes on, sealed with what was asked for."""

from __future__ import annotations

import base64
import binascii
import copy
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from callboard.v1.assistant_pb2 import ListAssistantsRequest, ListAssistantVersionsRequest
from callboard.v1.job_pb2 import ListJobsRequest
from callboard.v1.run_pb2 import ListRunsRequest
from callboard.v1.thread_pb2 import (
    ListActionsRequest,
    ListMessagesRequest,
    ListNoticesRequest,
    ListThreadsRequest,
)
from callboard_server import errors
from callboard_server.services.validation import MAX_PAGE
from callboard_server.store.base import Page

M = TypeVar("M", bound=Message)
ListRequest = (
    ListActionsRequest
    | ListAssistantsRequest
    | ListAssistantVersionsRequest
    | ListJobsRequest
    | ListMessagesRequest
    | ListNoticesRequest
    | ListRunsRequest
    | ListThreadsRequest
)

DEFAULT_PAGE = 50
PAGE_BYTES = 2 << 20
"""After how many bytes a page is full. One row may be larger and then stands alone."""
_PART = 16
"""How many rows are looked at together, where they may be large."""
_KEY_BYTES, _SEAL_BYTES = 8, 8


def page_of(request: ListRequest, default: int = DEFAULT_PAGE) -> Page:
    """Returns the page that a list request asks for.

    Raises:
        ServiceError: Page_size is negative, or the token is not one of this list.
    """
    size: int = request.page_size
    if size < 0:
        violation = errors.Violation("page_size", f"is {size}; it must not be negative")
        raise errors.invalid(violation)
    return Page(min(size or default, MAX_PAGE), _open_token(request))


def wider(page: Page) -> Page:
    """Returns the page with one row more, which tells whether there is a next one."""
    return Page(page.limit + 1, page.before)


def fitting(found: Iterable[M]) -> Iterator[M]:
    """Yields messages, at least one, as long as an answer has room for them."""
    size = 0
    for count, message in enumerate(found):
        size += message.ByteSize()
        if count and size > PAGE_BYTES:
            return
        yield message


async def gather(
    request: ListRequest, look: Callable[[Page], Awaitable[Sequence[tuple[int, M]]]]
) -> tuple[list[M], str]:
    """Collects a page in parts: of rows that are large, a thousand would fill the memory.

    Args:
        request: The list request.
        look: Finds a part of the list: messages, each with the key of its row.

    Returns:
        As many messages, at least one, as an answer has room for, and the next page's token.
    """
    page, size = page_of(request), 0
    shown = list[tuple[int, M]]()
    while True:
        before = shown[-1][0] if shown else page.before
        # One more than is shown tells whether there is a next page.
        limit = min(_PART, page.limit + 1 - len(shown))
        part = await look(Page(limit, before))
        for key, message in part:
            size += message.ByteSize()
            if len(shown) == page.limit or (shown and size > PAGE_BYTES):
                return [message for _, message in shown], token_at(request, shown[-1][0])
            shown.append((key, message))
        if len(part) < limit:
            return [message for _, message in shown], ""


def next_token(request: ListRequest, keys: list[int], shown: int) -> str:
    """Returns the token of the page after one.

    Args:
        request: The list request.
        keys: The keys of the rows that were found.
        shown: How many of them are on the page: fewer, if there is more to come.
    """
    return token_at(request, keys[shown - 1]) if shown < len(keys) else ""


def token_at(request: ListRequest, key: int) -> str:
    """Returns the token that goes on after a key."""
    raw = key.to_bytes(_KEY_BYTES, "big")
    return base64.urlsafe_b64encode(raw + _seal(request, raw)).decode().rstrip("=")


def _open_token(request: ListRequest) -> int | None:
    token: str = request.page_token
    if not token:
        return None
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        raise errors.bad_page_token() from None
    key, seal = raw[:_KEY_BYTES], raw[_KEY_BYTES:]
    if seal != _seal(request, key):
        raise errors.bad_page_token()
    return int.from_bytes(key, "big")


def _seal(request: ListRequest, key: bytes) -> bytes:
    """A digest of the request without its paging, so that a token fits only the same list."""
    bare = copy.deepcopy(request)
    bare.ClearField("page_token")
    bare.ClearField("page_size")
    content = type(request).__name__.encode() + bare.SerializeToString(deterministic=True) + key
    return hashlib.blake2s(content, digest_size=_SEAL_BYTES).digest()
