"""The server itself."""

from __future__ import annotations

import grpc.aio

from callboard._async.caller import AsyncCaller
from callboard.v1.server_pb2 import GetServerInfoRequest, ServerInfo
from callboard.v1.server_pb2_grpc import ServerServiceStub


class AsyncServer:
    """What the server is and how it does: `client.server`."""

    def __init__(self, channel: grpc.aio.Channel, caller: AsyncCaller) -> None:
        """Made by the client."""
        self._stub = ServerServiceStub(channel)
        self._caller = caller

    async def info(self) -> ServerInfo:
        """The server's version, limits and counts."""
        return await self._caller.repeatable(self._stub.GetServerInfo, GetServerInfoRequest())
