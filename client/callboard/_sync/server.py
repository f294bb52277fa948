# Generated from callboard/_async/server.py by `make protos`: do not edit.
"""The server itself."""

from __future__ import annotations

import grpc

from callboard._sync.caller import Caller
from callboard.v1.server_pb2 import GetServerInfoRequest, ServerInfo
from callboard.v1.server_pb2_grpc import ServerServiceStub


class Server:
    """What the server is and how it does: `client.server`."""

    def __init__(self, channel: grpc.Channel, caller: Caller) -> None:
        """Made by the client."""
        self._stub = ServerServiceStub(channel)
        self._caller = caller

    def info(self) -> ServerInfo:
        """The server's version, limits and counts."""
        return self._caller.repeatable(self._stub.GetServerInfo, GetServerInfoRequest())
