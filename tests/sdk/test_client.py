"""Targets, channels, closing, and the public names."""

from __future__ import annotations

import ast
import inspect
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import grpc
import grpc_testing
import pytest

import callboard
from callboard import _channel, _enums
from callboard._channel import parse_target
from callboard.v1 import event_pb2, job_pb2, lifecycle_pb2, message_pb2, thread_pb2
from tests.sdk.scripted import ScriptedServer

TLS = grpc.ssl_channel_credentials()


@pytest.mark.parametrize(
    ("target", "address"),
    [
        ("127.0.0.1:50051", "127.0.0.1:50051"),
        ("localhost:1", "localhost:1"),
        ("grpc://localhost:1", "localhost:1"),
        ("grpc://localhost:1/", "localhost:1"),
        ("grpc://[::1]:1", "[::1]:1"),
        ("unix:/run/callboard.sock", "unix:/run/callboard.sock"),
        ("unix:///run/callboard.sock", "unix:///run/callboard.sock"),
        ("dns:///callboard:1", "dns:///callboard:1"),
    ],
)
def test_plain_targets(target: str, address: str) -> None:
    assert parse_target(target, None) == (address, None)


def test_targets_with_tls() -> None:
    assert parse_target("grpcs://host:1", TLS) == ("host:1", TLS)
    assert parse_target("host:1", TLS) == ("host:1", TLS)
    assert parse_target("grpcs://host:1", None)[1] is not None


@pytest.mark.parametrize("target", ["http://host:1", "grpc://", "grpc://host:1/path"])
def test_targets_that_mean_nothing(target: str) -> None:
    with pytest.raises(ValueError, match="is not one of grpc://host:port"):
        parse_target(target, None)


def test_credentials_never_travel_unencrypted() -> None:
    with pytest.raises(ValueError, match="credentials need grpcs://"):
        callboard.Client("grpc://host:1", credentials=TLS)


def test_channel_options() -> None:
    options = dict(_channel.OPTIONS)
    assert options["grpc.max_receive_message_length"] == 16 * 2**20
    assert options["grpc.max_send_message_length"] == 16 * 2**20
    assert options["grpc.keepalive_time_ms"] == 30_000
    assert options["grpc.keepalive_timeout_ms"] == 10_000


async def test_large_messages(server: ScriptedServer, client: callboard.AsyncClient) -> None:
    server.script("GetJob", job_pb2.Job(task="x" * 5 * 2**20))
    assert len((await client.jobs.get("j")).task) == 5 * 2**20


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = f"unix:{tmp_path}/callboard.sock"
    async with ScriptedServer(path), callboard.AsyncClient(path) as client:
        assert await client.jobs.get("j") == job_pb2.Job()


def test_a_channel_of_the_caller_is_used_and_left_open() -> None:
    channel = grpc_testing.channel(
        [job_pb2.DESCRIPTOR.services_by_name["JobService"]], grpc_testing.strict_real_time()
    )
    method = job_pb2.DESCRIPTOR.services_by_name["JobService"].methods_by_name["GetJob"]
    with ThreadPoolExecutor() as pool, callboard.Client(channel=channel) as client:
        answer = pool.submit(client.jobs.get, "j")
        _, request, rpc = channel.take_unary_unary(method)
        assert request == job_pb2.GetJobRequest(job_id="j")
        rpc.terminate(job_pb2.Job(job_id="j"), (), grpc.StatusCode.OK, "")
        assert answer.result(5).job_id == "j"


async def test_a_channel_of_the_caller_outlives_the_client(server: ScriptedServer) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        for _ in range(2):
            async with callboard.AsyncClient(channel=channel) as client:
                await client.with_timeout(1.0).jobs.get("j")


def public_methods(client: type) -> dict[str, list[str]]:
    """The parameters of the methods of a client and its attributes, by name."""
    module = inspect.getmodule(client)
    classes = [client] + [
        value
        for name, value in vars(module).items()
        if re.fullmatch(r"(Async)?(Assistants|Threads|Runs|Jobs|Server)", name)
    ]
    return {
        f"{cls.__name__.removeprefix('Async')}.{name.removeprefix('a')}": list(
            inspect.signature(method).parameters
        )
        for cls in classes
        for name, method in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_") or name == "__init__"
    }


def test_both_clients_are_alike() -> None:
    asynchronous = public_methods(callboard.AsyncClient)
    assert asynchronous == public_methods(callboard.Client)
    assert len(asynchronous) > 40


def test_exported_names() -> None:
    source = Path(callboard.__file__).read_text()
    imported = [
        alias.name
        for node in ast.parse(source).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    # ruff keeps the list sorted.
    assert set(callboard.__all__) == set(imported)
    assert len(callboard.__all__) == len(imported)
    raised = {
        name
        for name, value in vars(callboard.errors).items()
        if inspect.isclass(value) and value.__module__ == "callboard.errors"
    }
    assert raised <= set(callboard.__all__)


@pytest.mark.parametrize(
    ("names", "enum"),
    [
        (_enums.DeliveryName, event_pb2.JobDelivery),
        (_enums.JobContextName, event_pb2.JobContext),
        (_enums.KindName, event_pb2.EventKind),
        (_enums.MultitaskName, lifecycle_pb2.MultitaskStrategy),
        (_enums.NotifyName, event_pb2.JobNotify),
        (_enums.OrderName, thread_pb2.Order),
        (_enums.PendingActionsName, lifecycle_pb2.PendingActions),
        (_enums.PresetName, thread_pb2.EventPreset),
        (_enums.RoleName, message_pb2.Role),
        (_enums.ScopeName, thread_pb2.EventScope),
        (_enums.StateName, lifecycle_pb2.RunState),
        (_enums.ThreadStateName, thread_pb2.Thread.State),
        (_enums.UntilName, lifecycle_pb2.Until),
        (_enums.WaitModeName, job_pb2.WaitMode),
    ],
)
def test_the_names_of_an_enum_are_those_of_the_contract(names: Any, enum: Any) -> None:
    numbers = [_enums.enum_value(enum, name, "x") for name in get_args(names)]
    assert [0, *numbers] == enum.values()
    assert _enums.enum_value(enum, get_args(names)[0].upper(), "x") == numbers[0]
    assert _enums.enum_value(enum, numbers[0], "x") == numbers[0]
    assert _enums.enum_value(enum, None, "x") == 0


def test_terminal_states_are_those_that_the_contract_calls_so() -> None:
    proto = Path(__file__).parents[2] / "protos/callboard/v1/lifecycle.proto"
    terminal = re.findall(
        r"// Terminal\..*\n(?: *//.*\n)* *RUN_STATE_\w+ = (\d+);", proto.read_text()
    )
    assert sorted(map(int, terminal)) == sorted(callboard.TERMINAL_STATES)


def test_text_of() -> None:
    message = message_pb2.Message(
        content=[
            message_pb2.ContentBlock(thinking=message_pb2.Thinking(text="Hm.")),
            message_pb2.ContentBlock(text=message_pb2.Text(text="Good ")),
            message_pb2.ContentBlock(tool_call=message_pb2.ToolCall(name="look")),
            message_pb2.ContentBlock(text=message_pb2.Text(text="morning.")),
        ]
    )
    assert callboard.text_of(message) == "Good morning."
    assert callboard.text_of(message_pb2.Message()) == ""
