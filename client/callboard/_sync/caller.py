# Generated from callboard/_async/caller.py by `make protos`: do not edit.
"""Calls that answer once: deadline, safe repeats, Callboard's exceptions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeAlias, TypeVar

import grpc

from callboard._backoff import Backoff
from callboard._failures import FAILURES, failure_of

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]


class PageRequest(Protocol):
    """A request for one page of a list."""

    page_token: str


class Page(Protocol):
    """One page of a list."""

    next_page_token: str


RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
PageRequestT = TypeVar("PageRequestT", bound=PageRequest)
PageT = TypeVar("PageT", bound=Page)
ItemT = TypeVar("ItemT")


class Caller:
    """Makes calls with the settings of a client."""

    def __init__(self, timeout: float | None, metadata: Metadata) -> None:
        self.timeout = timeout
        self.metadata = metadata

    def once(
        self, method: grpc.UnaryUnaryMultiCallable[RequestT, ResponseT], request: RequestT
    ) -> ResponseT:
        """Makes a call that must not be repeated: nobody knows whether a lost one had its effect.

        Raises:
            CallboardError: If it fails.
        """
        try:
            return method(request, timeout=self.timeout, metadata=self.metadata)
        except FAILURES as error:
            raise failure_of(error) from error

    def repeatable(
        self,
        method: grpc.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        longer_by: float = 0.0,
    ) -> ResponseT:
        """Makes a call that changes nothing when repeated, until an answer comes.

        Only UNAVAILABLE is repeated, with growing pauses and within the deadline.

        Args:
            method: The call.
            request: What to send, each time the same.
            longer_by: Seconds that the server may spend on waiting, on top of the deadline.

        Raises:
            CallboardError: If it fails for another reason, or for too long.
        """
        backoff = Backoff(None if self.timeout is None else self.timeout + longer_by)
        while True:
            try:
                return method(request, timeout=backoff.remaining(), metadata=self.metadata)
            except FAILURES as error:
                pause = backoff.pause(failure_of(error))
            time.sleep(pause)

    def pages(
        self,
        method: grpc.UnaryUnaryMultiCallable[PageRequestT, PageT],
        request: PageRequestT,
        items: Callable[[PageT], Iterable[ItemT]],
    ) -> Iterator[ItemT]:
        """The items of all pages of a list. A page is fetched when the one before is used up."""
        while True:
            page = self.repeatable(method, request)
            for item in items(page):
                yield item
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token
