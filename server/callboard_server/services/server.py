"""ServerService."""

from __future__ import annotations

from importlib.metadata import version

from callboard.v1 import server_pb2 as pb
from callboard_server.engine.engine import Engine
from callboard_server.log.events import EVENT_BYTES
from callboard_server.rpc import Call
from callboard_server.services.validation import MAX_PAGE, STRUCT_DEPTH
from callboard_server.store.base import Reader

CONTRACT = "callboard.v1"
VERSION = version("callboard")


class ServerServicer:
    """What a server is and how it does."""

    descriptor = pb.DESCRIPTOR.services_by_name["ServerService"]

    def __init__(self, engine: Engine, max_bytes: int) -> None:
        self._engine = engine
        self._max_bytes = max_bytes

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, call: Call) -> pb.ServerInfo:
        def query(reader: Reader) -> tuple[pb.Counts, int]:
            return reader.counts(), reader.size()

        counts, size = await self._engine.store.read(query)
        counts.slots_used = self._engine.dispatcher.slots_used
        counts.streams_open = self._engine.hub.streams
        info = pb.ServerInfo(
            version=VERSION,
            contract_version=CONTRACT,
            limits=self._limits(),
            counts=counts,
            store=self._engine.store.name,
            store_bytes=size,
            start_time=self._engine.start_time,
        )
        info.loop_lag.FromNanoseconds(int(self._engine.loop_lag * 1e9))
        return info

    def _limits(self) -> pb.Limits:
        return pb.Limits(
            message_bytes=self._max_bytes,
            event_bytes=EVENT_BYTES,
            struct_depth=STRUCT_DEPTH,
            page_size=MAX_PAGE,
            slots=self._engine.dispatcher.slots,
            delegation_depth=self._engine.limits.depth,
            delegation_width=self._engine.limits.width,
        )
