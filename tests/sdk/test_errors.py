"""What gRPC raises becomes one of Callboard's exceptions, with all that the server told."""

from __future__ import annotations

import pickle
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, ResourceInfo, RetryInfo

from callboard import _failures, errors
from tests.sdk.conftest import Either
from tests.sdk.scripted import Refusal, ScriptedServer

FAMILIES = {
    "INVALID_ARGUMENT": errors.InvalidArgument,
    "NOT_FOUND": errors.NotFound,
    "ALREADY_EXISTS": errors.AlreadyExists,
    "ABORTED": errors.Conflict,
    "FAILED_PRECONDITION": errors.FailedPrecondition,
    "OUT_OF_RANGE": errors.OutOfRange,
    "RESOURCE_EXHAUSTED": errors.ResourceExhausted,
    "UNAVAILABLE": errors.Unavailable,
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
    "UNAUTHENTICATED": errors.Unauthenticated,
    "PERMISSION_DENIED": errors.PermissionDenied,
    "UNIMPLEMENTED": errors.Unimplemented,
    "INTERNAL": errors.Internal,
    "UNKNOWN": errors.Internal,
    "DATA_LOSS": errors.Internal,
    "CANCELLED": errors.Cancelled,
}


def test_every_code_has_a_family() -> None:
    assert FAMILIES.keys() == {code.name for code in grpc.StatusCode} - {"OK"}


@pytest.mark.parametrize("name", sorted(FAMILIES))
async def test_a_bare_error(server: ScriptedServer, either: Either, name: str) -> None:
    code = grpc.StatusCode[name]
    server.script("DeleteThread", Refusal(code, "not now"))
    with pytest.raises(errors.CallboardError) as caught:
        await either.call(lambda c: c.threads.delete("t"))
    error = caught.value
    assert type(error) is FAMILIES[name]
    assert (error.code, error.reason, error.message) == (code, "", "not now")
    assert (error.metadata, error.field_violations, error.retry_delay) == ({}, (), None)
    assert str(error) == f"{name}: not now"
    assert isinstance(error.__cause__, grpc.RpcError)


async def test_all_details(server: ScriptedServer, either: Either) -> None:
    violations = [
        BadRequest.FieldViolation(field="input.messages[0].role", description="must be\nset"),
        BadRequest.FieldViolation(field="timeout", description="is negative"),
    ]
    refusal = Refusal(
        grpc.StatusCode.INVALID_ARGUMENT,
        "timeout is negative",
        [
            ResourceInfo(resource_name="unrelated"),
            ErrorInfo(reason="FIELD_INVALID", metadata={"a": "b", "error_id": "e-1"}),
            BadRequest(field_violations=violations),
            RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)),
        ],
    )
    server.script("GetJob", refusal)
    with pytest.raises(errors.InvalidArgument) as caught:
        await either.call(lambda c: c.jobs.get("j"))
    error = caught.value
    assert error.reason == "FIELD_INVALID"
    assert error.metadata == {"a": "b", "error_id": "e-1"}
    assert error.error_id == "e-1"
    assert error.retry_delay == 1.5
    assert error.field_violations == (
        ("input.messages[0].role", "must be\nset"),
        ("timeout", "is negative"),
    )
    assert str(error) == (
        "FIELD_INVALID: timeout is negative (input.messages[0].role: must be set) (error id e-1)"
    )


@pytest.mark.parametrize("trailing", [None, (), [("grpc-status-details-bin", b"\xff\xff")]])
def test_broken_details_are_left_out(trailing: Any) -> None:
    class BrokenError(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.NOT_FOUND

        def details(self) -> None:
            return None

        def trailing_metadata(self) -> Any:
            return trailing

    error = _failures.failure_of(BrokenError())
    assert isinstance(error, errors.NotFound)
    assert error.reason == ""
    assert str(error) == "NOT_FOUND: the server gave no message"


def test_errors_survive_pickling() -> None:
    for family in {*FAMILIES.values(), errors.WaitTimeout}:
        error = family("text")
        error.reason = "REASON"
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is family
        assert copy.__dict__ == error.__dict__
        assert str(copy) == "REASON: text"


def test_the_tree_at_the_top_is_complete() -> None:
    assert errors.__doc__ is not None
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, errors.CallboardError):
            assert f" {name} " in errors.__doc__ or errors.__doc__.count(f"\n{name}\n") == 1
