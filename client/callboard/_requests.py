"""What several requests have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from google.protobuf.struct_pb2 import Struct

from callboard._enums import MultitaskName, PendingActionsName, enum_value
from callboard._messages import MessageLike, to_messages
from callboard._times import to_duration, to_timestamp
from callboard.structs import to_struct
from callboard.v1.lifecycle_pb2 import MultitaskStrategy, PendingActions
from callboard.v1.run_pb2 import CreateRunRequest, RunInput


def new_request_id() -> str:
    """An id for a request that creates something, so that the client may repeat it."""
    return str(uuid4())


def optional_struct(mapping: Mapping[str, Any] | None, argument: str) -> Struct | None:
    """A Struct of a mapping; None stays None.

    Raises:
        ValueError: If something in the mapping does not survive in a Struct.
    """
    return None if mapping is None else to_struct(mapping, name=argument)


def id_list(ids: str | Iterable[str]) -> list[str]:
    """Several ids; a single one may stand alone."""
    return [ids] if isinstance(ids, str) else list(ids)


def create_run_request(
    *,
    assistant: str | None,
    input: MessageLike | Sequence[MessageLike],
    values: Mapping[str, Any] | None,
    thread_id: str | None,
    config: Mapping[str, Any] | None,
    additional_instructions: str | None,
    multitask_strategy: MultitaskName | int | None,
    pending_actions: PendingActionsName | int | None,
    expected_thread_sequence: int | None,
    timeout: float | timedelta | None,
    start_after: datetime | None,
    metadata: Mapping[str, Any] | None,
    thread_metadata: Mapping[str, Any] | None,
    request_id: str | None,
) -> CreateRunRequest:
    """The request for a run, which `runs.create` and `runs.stream` share.

    Raises:
        ValueError: If an argument cannot be sent.
    """
    return CreateRunRequest(
        thread_id=thread_id or "",
        assistant_id=assistant or "",
        input=RunInput(
            messages=to_messages(input, "input"), values=optional_struct(values, "values")
        ),
        config=optional_struct(config, "config"),
        additional_instructions=additional_instructions or "",
        multitask_strategy=enum_value(MultitaskStrategy, multitask_strategy, "multitask_strategy"),
        pending_actions=enum_value(PendingActions, pending_actions, "pending_actions"),
        expected_thread_sequence=expected_thread_sequence,
        timeout=to_duration(timeout, "timeout"),
        start_after=to_timestamp(start_after, "start_after"),
        metadata=optional_struct(metadata, "metadata"),
        request_id=request_id or new_request_id(),
        thread_metadata=optional_struct(thread_metadata, "thread_metadata"),
    )
