"""ThreadService: the state of threads."""

from __future__ import annotations

from callboard.v1 import thread_pb2 as pb
from callboard.v1.event_pb2 import Event
from callboard.v1.message_pb2 import Message
from callboard_server.engine.admission import check_sequence
from callboard_server.engine.creation import add_state
from callboard_server.engine.engine import Engine, Once, find_thread, once
from callboard_server.engine.history import ThreadAt
from callboard_server.engine.notices import mark_read
from callboard_server.engine.present import show_thread
from callboard_server.log.events import without_provider_state
from callboard_server.log.notices import heard_text
from callboard_server.rpc import Call
from callboard_server.services.messages import brings_results, check_results, completed
from callboard_server.services.paging import fitting, next_token, page_of, token_at
from callboard_server.services.validation import Check
from callboard_server.store.base import NoticeRow, Reader, Transaction

MESSAGES = 100
"""How many messages or events to return where a request does not say."""
_MOST_MESSAGES = 10_000


class StateRpcs:
    """What a thread comes to, and additions to that without a run."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def GetThreadState(self, request: pb.GetThreadStateRequest, call: Call) -> pb.ThreadState:
        check = Check()
        check.uuid("thread_id", request.thread_id)
        check_point(check, request)
        if request.message_limit > _MOST_MESSAGES:
            check.wrong("message_limit", f"at most {_MOST_MESSAGES} are allowed")
        check.done()
        limit = max(0, request.message_limit or MESSAGES)

        def query(reader: Reader) -> pb.ThreadState:
            thread = find_thread(reader, call.caller.tenant, request.thread_id)
            state = ThreadAt(reader, thread, point_of(request))
            last, _ = state.messages(limit, newest_first=True)
            last = list(fitting(last))
            return pb.ThreadState(
                thread=show_thread(reader, thread),
                at_sequence=state.sequence,
                values=state.values,
                messages=[_message(event) for event in reversed(last)],
                message_count=state.message_count,
                pending_actions=fitting(state.open_actions),
            )

        return await self._engine.store.read(query)

    async def ListMessages(
        self, request: pb.ListMessagesRequest, call: Call
    ) -> pb.ListMessagesResponse:
        check = Check()
        check.uuid("thread_id", request.thread_id)
        check.enum(request, "order")
        check.done()
        page = page_of(request, default=MESSAGES)
        newest_first = request.order == pb.ORDER_NEWEST_FIRST

        def query(reader: Reader) -> pb.ListMessagesResponse:
            thread = find_thread(reader, call.caller.tenant, request.thread_id)
            found, more = ThreadAt(reader, thread).messages(
                page.limit, newest_first=newest_first, beyond=page.before
            )
            shown = list(fitting(found))
            more = more or len(shown) < len(found)
            return pb.ListMessagesResponse(
                messages=[_message(event) for event in shown],
                next_page_token=token_at(request, shown[-1].sequence) if more else "",
            )

        return await self._engine.store.read(query)

    async def UpdateThreadState(
        self, request: pb.UpdateThreadStateRequest, call: Call
    ) -> pb.Thread:
        check = Check()
        check.uuid("thread_id", request.thread_id)
        check.messages("messages", request.messages, any_role=True)
        check.struct("values", request.values)
        check.request_id(request.request_id)
        if not request.messages and not request.values.fields:
            check.wrong("messages", "messages or values are required")
        check.done()
        key = Once.of(call.caller, request, request.request_id)

        def operation(tx: Transaction) -> pb.Thread:
            thread = find_thread(tx, call.caller.tenant, request.thread_id)
            if request.HasField("expected_thread_sequence"):
                check_sequence(thread, request.expected_thread_sequence)
            if brings_results(request.messages):
                check_results(request.messages, tx, thread)
            messages = completed(request.messages)
            add_state(tx, thread, messages, request.values, call.caller.actor)
            return show_thread(tx, thread)

        return await self._engine.store.write(once(key, pb.Thread, operation))

    async def ListActions(
        self, request: pb.ListActionsRequest, call: Call
    ) -> pb.ListActionsResponse:
        check = Check()
        check.uuid("thread_id", request.thread_id, required=False)
        check.enum(request, "scope")
        check.done()
        page = page_of(request)
        tenant, whole_session = call.caller.tenant, request.scope == pb.EVENT_SCOPE_SESSION

        def query(reader: Reader) -> pb.ListActionsResponse:
            thread = session = None
            if request.thread_id:
                row = find_thread(reader, tenant, request.thread_id)
                thread, session = (None, row.session.key) if whole_session else (row.key, None)
            rows = reader.open_actions(
                tenant, limit=page.limit + 1, after=page.before, thread=thread, session=session
            )
            shown = list(fitting(row.data for row in rows[: page.limit]))
            token = next_token(request, [row.key for row in rows], len(shown))
            return pb.ListActionsResponse(actions=shown, next_page_token=token)

        return await self._engine.store.read(query)

    async def ListNotices(
        self, request: pb.ListNoticesRequest, call: Call
    ) -> pb.ListNoticesResponse:
        check = Check()
        check.uuid("thread_id", request.thread_id)
        check.done()
        page = page_of(request)

        def query(reader: Reader) -> pb.ListNoticesResponse:
            thread = find_thread(reader, call.caller.tenant, request.thread_id)
            rows = reader.list_notices(
                thread.key,
                limit=page.limit + 1,
                after=page.before,
                unread=not request.include_read,
            )
            shown = list(fitting(_notice(row) for row in rows[: page.limit]))
            return pb.ListNoticesResponse(
                notices=shown,
                next_page_token=next_token(request, [row.key for row in rows], len(shown)),
                through_sequence=thread.session.head,
            )

        return await self._engine.store.read(query)

    async def ReadNotices(self, request: pb.ReadNoticesRequest, call: Call) -> pb.Thread:
        check = Check()
        check.uuid("thread_id", request.thread_id)
        check.uuids("notice_ids", request.notice_ids)
        check.done()

        def operation(tx: Transaction) -> pb.Thread:
            thread = find_thread(tx, call.caller.tenant, request.thread_id)
            mark_read(tx, thread, set(request.notice_ids), call.caller.actor)
            return show_thread(tx, thread)

        return await self._engine.store.write(operation)


def _notice(row: NoticeRow) -> pb.ThreadNotice:
    return pb.ThreadNotice(
        notice=row.data, text=heard_text(row.data), read=row.read, sequence=row.sequence
    )


def _message(added: Event) -> Message:
    return without_provider_state(added).message_added.message


def check_point(check: Check, request: pb.GetThreadStateRequest | pb.CopyThreadRequest) -> None:
    """Checks the sequence at which a request looks."""
    if request.at_sequence < 0:
        check.wrong("at_sequence", "must not be negative")


def point_of(request: pb.GetThreadStateRequest | pb.CopyThreadRequest) -> int | None:
    """Returns the sequence at which a request looks; None is the end of the log."""
    return request.at_sequence if request.HasField("at_sequence") else None
