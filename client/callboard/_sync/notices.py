# Generated from callboard/_async/notices.py by `make protos`: do not edit.
"""What threads are told about their jobs, for programs that supervise these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

import grpc

from callboard._enums import KindName
from callboard._messages import text_of
from callboard._requests import id_list
from callboard._sync.caller import Caller
from callboard._sync.streams import EventStream
from callboard._sync.threads import Threads
from callboard.errors import OutOfRange
from callboard.v1.event_pb2 import Event
from callboard.v1.thread_pb2 import (
    ListNoticesRequest,
    ListNoticesResponse,
    ReadNoticesRequest,
    Thread,
    ThreadNotice,
)
from callboard.v1.thread_pb2_grpc import ThreadServiceStub

# The last two can make notices unread again that an assistant had read.
_TELLING: Sequence[KindName] = ("notice_added", "runs_rolled_back", "claim_voided")


class Notices:
    """What threads are told about their jobs: `client.notices`.

    `notices()` of a supervisor is the short way, for its home thread.
    """

    def __init__(self, channel: grpc.Channel, caller: Caller) -> None:
        """Made by the client."""
        self._channel = channel
        self._stub = ThreadServiceStub(channel)
        self._caller = caller

    def list(
        self, thread_id: str, *, include_read: bool = False, page_size: int = 0
    ) -> Iterator[JobNotice]:
        """Lists the notices of a thread that nobody has read, oldest first.

        Args:
            thread_id: The thread.
            include_read: Whether to list those that were read, too.
            page_size: How many to fetch at a time, up to 1,000; 0 leaves it to the server.

        Returns:
            An iterator over all of them, which raises NotFound (THREAD_NOT_FOUND).
        """
        request = ListNoticesRequest(
            thread_id=thread_id, include_read=include_read, page_size=page_size
        )

        def items(page: ListNoticesResponse) -> Sequence[JobNotice]:
            return [JobNotice(told, self, thread_id) for told in page.notices]

        return self._caller.pages(self._stub.ListNotices, request, items)

    def read(self, thread_id: str, notice_ids: str | Iterable[str]) -> Thread:
        """Marks notices as read. Those that were read before stay so.

        Args:
            thread_id: The thread.
            notice_ids: The notices: 1 to 1,000.

        Returns:
            The thread; `unread_notice_count` says how many are left.

        Raises:
            NotFound: THREAD_NOT_FOUND or NOTICE_NOT_FOUND; then none is marked.
        """
        request = ReadNoticesRequest(thread_id=thread_id, notice_ids=id_list(notice_ids))
        return self._caller.repeatable(self._stub.ReadNotices, request)

    def stream(
        self, thread_id: str, *, follow: bool = True, max_downtime: float | None = 60.0
    ) -> NoticeStream:
        """Hands out the notices of a thread one by one: the unread ones first, then live.

        Args:
            thread_id: The thread.
            follow: Whether to wait for further ones when nothing is unread any more.
            max_downtime: For how many seconds a server that does not answer is tried; None for
                ever.

        Returns:
            A stream of notices. It is a context manager and raises NotFound (THREAD_NOT_FOUND).
        """
        patient = Notices(self._channel, Caller(max_downtime, self._caller.metadata))
        return NoticeStream(patient, thread_id, follow, max_downtime)

    def _oldest(self, thread_id: str) -> ListNoticesResponse:
        request = ListNoticesRequest(thread_id=thread_id, page_size=1)
        return self._caller.repeatable(self._stub.ListNotices, request)

    def _listen(
        self, thread_id: str, after_sequence: int, max_downtime: float | None
    ) -> EventStream:
        threads = Threads(self._channel, self._caller)
        return threads.stream(
            thread_id, kinds=_TELLING, after_sequence=after_sequence, max_downtime=max_downtime
        )


class JobNotice:
    """What a supervisor is told about a job: that it is over, and how, or that it needs an answer.

    Attributes:
        notice_id: Identifies the notice.
        text: All of it in words: exactly what the model of a supervisor on the server is sent. It
            stands in tags, so that what a job says passes for no more than that.
        job_id: The job.
        agent: Who works on it.
        task: The task as it was launched.
        state: Where the job stands: a terminal state, or REQUIRES_ACTION.
        outcome: How it ended: result, error, usage.
        result: The text of its result; empty where it has none.
        error: What went wrong; empty where nothing did.
        actions: What it needs, for `client.actions` to answer.
        read: Whether somebody has read the notice.
        data: The notice as it stands in the log.
    """

    def __init__(self, told: ThreadNotice, notices: Notices, thread_id: str) -> None:
        """Made by the client."""
        self.data = told.notice
        self.notice_id = told.notice.notice_id
        self.text = told.text
        self.job_id = told.notice.job_id
        self.agent = told.notice.agent
        self.task = told.notice.task
        self.state = told.notice.state
        self.outcome = told.notice.outcome
        self.result = text_of(told.notice.outcome.result)
        self.error = told.notice.outcome.error.message
        self.actions = told.notice.actions
        self.read = told.read
        self._notices = notices
        self._thread_id = thread_id

    def done(self) -> None:
        """Marks the notice as read: it was handled. A repeat does nothing.

        Raises:
            NotFound: THREAD_NOT_FOUND: the thread was deleted.
        """
        if not self.read:
            self._notices.read(self._thread_id, self.notice_id)
            self.read = True


class NoticeStream:
    """Hands out notices one by one, and marks each as read when the next one is asked for.

    So a notice counts as handled when the body of the loop came to its end. One whose body was left
    otherwise, by an exception, `break` or the end of the program, stays unread, and the next loop,
    also of a program that starts anew, begins with it; `notice.done()` marks it sooner. Lost
    connections are taken up again.

    Example:
        with supervisor.notices() as notices:
            for notice in notices:
                print(notice.text)
    """

    def __init__(
        self, notices: Notices, thread_id: str, follow: bool, max_downtime: float | None
    ) -> None:
        """Made by the client."""
        self._notices = notices
        self._thread_id = thread_id
        self._follow = follow
        self._max_downtime = max_downtime
        self._in_hand: JobNotice | None = None
        self._events: EventStream | None = None
        self._closed = False

    def close(self) -> None:
        """Ends the iteration, also one that waits for a notice right now. Marks nothing."""
        self._closed = True
        if self._events is not None:
            self._events.close()

    def __iter__(self) -> Self:
        self._in_hand = None
        return self

    def __next__(self) -> JobNotice:
        if self._in_hand is not None:
            self._in_hand.done()
            self._in_hand = None
        while not self._closed:
            found = self._notices._oldest(self._thread_id)
            for told in found.notices:
                self._in_hand = JobNotice(told, self._notices, self._thread_id)
                return self._in_hand
            if not self._follow:
                break
            self._wait(found.through_sequence)
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _wait(self, sequence: int) -> None:
        """Waits for an event beyond a sequence that tells of notices."""
        if self._events is None:
            self._events = self._notices._listen(self._thread_id, sequence, self._max_downtime)
        if self._closed:
            # Meanwhile, and too early to find a stream to close.
            return
        try:
            for event in self._events:
                if isinstance(event, Event) and event.sequence > sequence:
                    return
        except OutOfRange:
            # The log was trimmed meanwhile, or restored from a backup.
            pass
        # The thread may be gone, too: the next look tells, and where to go on.
        self._events = None
