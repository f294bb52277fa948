"""ThreadService."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from google.protobuf.empty_pb2 import Empty

from callboard.structs import to_dict
from callboard.v1 import thread_pb2 as pb
from callboard.v1.assistant_pb2 import Agent, Assistant
from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.event_pb2 import Event
from callboard.v1.lifecycle_pb2 import Until
from callboard_server import errors
from callboard_server.engine.admission import admit
from callboard_server.engine.compaction import summarising_run, write_summary
from callboard_server.engine.copying import Original, original_of, write_copy
from callboard_server.engine.creation import NewThread, add_state, check_size, open_session
from callboard_server.engine.deletion import delete_tree
from callboard_server.engine.engine import Admitted, Once, find_run, find_thread, once
from callboard_server.engine.present import show_thread
from callboard_server.ids import new_id
from callboard_server.log.events import CONDENSED, without_provider_state
from callboard_server.log.fold import merge_patch
from callboard_server.rpc import Call
from callboard_server.services import streams
from callboard_server.services.messages import check_results, completed
from callboard_server.services.paging import fitting, next_token, page_of, wider
from callboard_server.services.state import MESSAGES, StateRpcs, check_point, point_of
from callboard_server.services.validation import MAX_PAGE, Check
from callboard_server.store.base import EventFilter, Reader, SessionRow, ThreadRow, Transaction


class ThreadServicer(StateRpcs):
    """Conversations, their state and their log."""

    descriptor = pb.DESCRIPTOR.services_by_name["ThreadService"]

    # Threads

    async def CreateThread(self, request: pb.CreateThreadRequest, call: Call) -> pb.Thread:
        check = Check()
        check.uuid("thread_id", request.thread_id, required=False)
        check.messages("messages", request.messages, any_role=True)
        check.struct("values", request.values)
        check.struct("metadata", request.metadata)
        if request.HasField("ttl"):
            check.duration("ttl", request.ttl)
        check.request_id(request.request_id)
        check.done()
        check_results(request.messages)
        key = Once.of(call.caller, request, request.request_id)

        def operation(tx: Transaction) -> pb.Thread:
            if request.thread_id and tx.thread(call.caller.tenant, request.thread_id):
                reason = ErrorReason.ERROR_REASON_THREAD_ALREADY_EXISTS
                raise errors.already_exists("Thread", request.thread_id, reason)
            new = NewThread(
                request.thread_id or new_id(),
                metadata=request.metadata if request.HasField("metadata") else None,
                ttl=request.ttl if request.HasField("ttl") else None,
            )
            thread = open_session(tx, call.caller.tenant, new, call.caller.actor)
            messages = completed(request.messages)
            add_state(tx, thread, messages, request.values, call.caller.actor)
            return show_thread(tx, thread)

        return await self._engine.store.write(once(key, pb.Thread, operation))

    async def GetThread(self, request: pb.GetThreadRequest, call: Call) -> pb.Thread:
        _check_thread_id(request.thread_id)
        return await self._engine.store.read(
            lambda reader: show_thread(
                reader, find_thread(reader, call.caller.tenant, request.thread_id)
            )
        )

    async def ListThreads(
        self, request: pb.ListThreadsRequest, call: Call
    ) -> pb.ListThreadsResponse:
        check = Check()
        check.struct("metadata", request.metadata)
        check.enum(request, "state")
        check.uuid("session_id", request.session_id, required=False)
        check.done()
        page = page_of(request)
        busy = request.state == pb.Thread.STATE_BUSY if request.state else None

        def query(reader: Reader) -> pb.ListThreadsResponse:
            session = None
            if request.session_id:
                root = find_thread(reader, call.caller.tenant, request.session_id)
                session = root.session.key
            rows = reader.list_threads(
                call.caller.tenant,
                wider(page),
                session=session,
                busy=busy,
                metadata=to_dict(request.metadata),
            )
            shown = list(fitting(show_thread(reader, row) for row in rows[: page.limit]))
            token = next_token(request, [row.key for row in rows], len(shown))
            return pb.ListThreadsResponse(threads=shown, next_page_token=token)

        return await self._engine.store.read(query)

    async def UpdateThread(self, request: pb.UpdateThreadRequest, call: Call) -> pb.Thread:
        check = Check()
        check.uuid("thread_id", request.thread_id)
        check.struct("metadata", request.metadata)
        if request.HasField("ttl") and request.ttl.ToNanoseconds():
            check.duration("ttl", request.ttl)
        check.done()

        def operation(tx: Transaction) -> pb.Thread:
            thread = find_thread(tx, call.caller.tenant, request.thread_id)
            if request.etag and request.etag != show_thread(tx, thread).etag:
                raise errors.etag_mismatch("thread")
            _change(tx, thread, request)
            event = Event(actor=call.caller.actor)
            event.thread_updated.metadata.CopyFrom(thread.data.metadata)
            if thread.data.HasField("ttl"):
                event.thread_updated.ttl.CopyFrom(thread.data.ttl)
            check_size(event)
            tx.append(thread, event)
            thread.data.update_time.CopyFrom(event.time)
            tx.save_thread(thread)
            return show_thread(tx, thread)

        return await self._engine.store.write(operation)

    async def DeleteThread(self, request: pb.DeleteThreadRequest, call: Call) -> Empty:
        _check_thread_id(request.thread_id)

        def operation(tx: Transaction) -> SessionRow | None:
            thread = find_thread(tx, call.caller.tenant, request.thread_id)
            return delete_tree(tx, thread, call.caller.actor)

        async def delete() -> None:
            session = await self._engine.store.write(operation)
            if session is not None:
                self._engine.hub.session_deleted(session.key)
                await self._engine.workspaces.remove(session.session_id)

        # Open streams end also when the caller goes away.
        await asyncio.shield(asyncio.create_task(delete()))
        return Empty()

    async def CopyThread(self, request: pb.CopyThreadRequest, call: Call) -> pb.Thread:
        check = Check()
        check.uuid("thread_id", request.thread_id)
        check_point(check, request)
        check.struct("metadata", request.metadata)
        check.request_id(request.request_id)
        check.done()
        tenant, actor = call.caller.tenant, call.caller.actor
        key = Once.of(call.caller, request, request.request_id)

        def look(reader: Reader) -> Original | None:
            if key and key.was_answered(reader):
                # The first answer counts, whatever became of the thread.
                return None
            thread = find_thread(reader, tenant, request.thread_id)
            return original_of(reader, thread, point_of(request), actor)

        original = await self._engine.store.read(look)

        def operation(tx: Transaction) -> pb.Thread:
            if original is None:
                raise errors.thread_not_found(request.thread_id)
            metadata = request.metadata if request.HasField("metadata") else None
            thread = write_copy(tx, tenant, original, metadata, actor)
            return show_thread(tx, thread)

        return await self._engine.store.write(once(key, pb.Thread, operation))

    async def CompactThread(self, request: pb.CompactThreadRequest, call: Call) -> pb.Thread:
        check = Check()
        check.uuid("thread_id", request.thread_id)
        check.request_id(request.request_id)
        check.done()
        key = Once.of(call.caller, request, request.request_id)

        def write(tx: Transaction) -> pb.Thread:
            thread = find_thread(tx, call.caller.tenant, request.thread_id)
            write_summary(tx, thread, request.summary, call.caller.actor)
            return show_thread(tx, thread)

        def queue(tx: Transaction) -> Admitted[pb.Thread]:
            thread = find_thread(tx, call.caller.tenant, request.thread_id)
            new = summarising_run(self._summariser(tx, thread))
            run = admit(tx, thread, new, call.caller.actor)
            return Admitted(run, lambda: show_thread(tx, thread))

        if request.summary.strip():
            return await self._engine.store.write(once(key, pb.Thread, write))
        return await self._engine.admit(key, pb.Thread, queue)

    def _summariser(self, tx: Transaction, thread: ThreadRow) -> Assistant:
        """Returns the assistant that writes a thread's summary."""
        current = thread.data.current_assistant_id
        if not current:
            raise errors.assistant_required(thread.data.thread_id, "summary")
        assistant = self._engine.assistants.resolve(tx, thread.session.tenant, current)
        agent = self._engine.registry.get(assistant.agent)
        if agent is not None and agent.kind != Agent.KIND_CHAT:
            problem = f"is required: {assistant.name}, who answers on the thread, has no model"
            raise errors.invalid(errors.Violation("summary", problem))
        return assistant

    # The log

    async def ListEvents(self, request: pb.ListEventsRequest, call: Call) -> pb.ListEventsResponse:
        check = Check()
        check.uuid("thread_id", request.thread_id)
        check.enum(request, "order")
        _check_selection(check, request)
        check.uuid("run_id", request.run_id, required=False)
        if request.preset and request.run_id:
            check.wrong("run_id", "goes without preset")
        check.done()
        limit = page_of_events(request)
        newest_first = request.order == pb.ORDER_NEWEST_FIRST

        def query(reader: Reader) -> pb.ListEventsResponse:
            thread = find_thread(reader, call.caller.tenant, request.thread_id)
            cursor, head = request.after_sequence, thread.session.head
            streams.check_cursor(thread.session, cursor)
            through = cursor - 1 if newest_first and cursor else head
            wanted = selection(request, thread)
            if request.run_id:
                run = find_run(reader, call.caller.tenant, request.run_id)
                wanted = replace(wanted, run=run.key)
            records = list(
                reader.events(
                    thread.session.key,
                    wanted,
                    after=0 if newest_first else cursor,
                    through=through,
                    limit=limit + 1,
                    newest_first=newest_first,
                )
            )
            events = (without_provider_state(record.event) for record in records[:limit])
            shown = list(fitting(events))
            more = len(records) > len(shown)
            end = shown[-1].sequence if more else (1 if newest_first else head)
            return pb.ListEventsResponse(
                events=shown,
                through_sequence=end,
                more=more,
            )

        return await self._engine.store.read(query)

    async def StreamEvents(
        self, request: pb.StreamEventsRequest, call: Call
    ) -> AsyncIterator[bytes]:
        check = Check()
        check.uuid("thread_id", request.thread_id, required=False)
        check.uuid("run_id", request.run_id, required=False)
        if bool(request.thread_id) == bool(request.run_id):
            check.wrong("thread_id", "exactly one of thread_id and run_id is required")
        check.enum(request, "until")
        _check_selection(check, request)
        check.done()
        if request.run_id:
            wanted = streams.RunStream(
                request.run_id,
                after=request.after_sequence,
                kinds=frozenset(request.kinds),
                deltas=request.deltas,
                until=request.until or Until.UNTIL_DONE,
            )
            frames = streams.stream_run(self._engine, call, wanted)
        else:
            frames = streams.stream_thread(self._engine, call, request, selection)
        async for frame in frames:
            yield frame


def _check_thread_id(thread_id: str) -> None:
    check = Check()
    check.uuid("thread_id", thread_id)
    check.done()


Selecting = pb.ListEventsRequest | pb.StreamEventsRequest


def _check_selection(check: Check, request: Selecting) -> None:
    check.enum(request, "scope")
    check.enum(request, "preset")
    check.enum(request, "kinds")
    if request.preset and request.kinds:
        check.wrong("preset", "goes without kinds")
    if request.after_sequence < 0:
        check.wrong("after_sequence", "must not be negative")


def selection(request: Selecting, thread: ThreadRow) -> EventFilter:
    """Returns which events of a thread's session a request wants."""
    whole_session = request.scope == pb.EVENT_SCOPE_SESSION
    if request.preset == pb.EVENT_PRESET_CONDENSED:
        return EventFilter(thread=thread.key, condensed=CONDENSED if whole_session else frozenset())
    return EventFilter(thread=None if whole_session else thread.key, kinds=frozenset(request.kinds))


def page_of_events(request: pb.ListEventsRequest) -> int:
    """Returns how many events a request wants at the most."""
    if request.page_size < 0:
        raise errors.invalid(errors.Violation("page_size", "must not be negative"))
    return min(request.page_size or MESSAGES, MAX_PAGE)


def _change(tx: Transaction, thread: ThreadRow, request: pb.UpdateThreadRequest) -> None:
    if request.HasField("metadata"):
        thread.data.metadata.SetInParent()
        merge_patch(thread.data.metadata, request.metadata)
    if request.HasField("ttl"):
        if thread.parent is not None:
            raise errors.not_a_root_thread(thread.data.thread_id, thread.session.session_id)
        seconds = request.ttl.ToNanoseconds() / 1e9
        thread.session.ttl = seconds or None
        tx.save_session(thread.session)
        if seconds:
            thread.data.ttl.CopyFrom(request.ttl)
        else:
            thread.data.ClearField("ttl")
