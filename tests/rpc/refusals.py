"""What a failed call carries, as tests compare it."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    PreconditionFailure,
    ResourceInfo,
    RetryInfo,
)
from google.rpc.status_pb2 import Status

DOMAIN = "callboard.dev"


@dataclass
class Refusal:
    """A failed call."""

    code: str
    reason: str = ""
    domain: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    fields: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    message: str = ""


async def refusal_of(call: Awaitable[object]) -> Refusal:
    """Awaits a call that must fail."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return read_refusal(error)
    raise AssertionError(f"the call was taken: {str(answer)[:200]}")


def read_refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Reads the details of a failed call."""
    refusal = Refusal(error.code().name, message=error.details() or "")
    trailing = dict(error.trailing_metadata() or ())
    status = Status.FromString(bytes(trailing.get("grpc-status-details-bin", b"")))
    kinds: tuple[type[Message], ...] = (
        ErrorInfo,
        BadRequest,
        PreconditionFailure,
        ResourceInfo,
        RetryInfo,
    )
    for packed in status.details:
        for kind in kinds:
            detail = kind()
            if packed.Unpack(detail):
                refusal.details.append(kind.__name__)
                if isinstance(detail, ErrorInfo):
                    refusal.reason, refusal.domain = detail.reason, detail.domain
                    refusal.metadata = dict(detail.metadata)
                elif isinstance(detail, BadRequest):
                    refusal.fields = [violation.field for violation in detail.field_violations]
    return refusal
