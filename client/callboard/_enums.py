"""Enum values by their short names: "interrupt" for JOB_DELIVERY_INTERRUPT."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    from google.protobuf.internal.enum_type_wrapper import _EnumTypeWrapper

ValueT = TypeVar("ValueT", bound=int)

DeliveryName: TypeAlias = Literal["interrupt", "steer", "enqueue"]
JobContextName: TypeAlias = Literal["isolated", "fork"]
JobScopeName: TypeAlias = Literal["thread", "tree"]
JobViewName: TypeAlias = Literal["basic", "full"]
KindName: TypeAlias = Literal[
    "thread_created",
    "thread_updated",
    "thread_deleted",
    "thread_idle",
    "message_added",
    "message_discarded",
    "values_merged",
    "context_compacted",
    "assistant_changed",
    "run_created",
    "run_started",
    "run_progress",
    "run_waiting",
    "run_queued",
    "run_input_added",
    "run_cancel_requested",
    "run_finished",
    "runs_rolled_back",
    "model_call_started",
    "model_call_finished",
    "tool_started",
    "step_recorded",
    "custom",
    "claim_voided",
    "action_raised",
    "action_answered",
    "action_closed",
    "job_launched",
    "job_updated",
    "thread_message_sent",
    "thread_message_received",
    "notice_added",
    "notices_read",
]
MultitaskName: TypeAlias = Literal[
    "enqueue", "reject", "interrupt", "rollback", "steer", "concurrent"
]
NotifyName: TypeAlias = Literal["none", "outcome", "outcome_and_actions"]
OrderName: TypeAlias = Literal["oldest_first", "newest_first"]
PendingActionsName: TypeAlias = Literal["keep", "cancel"]
PresetName: TypeAlias = Literal["condensed"]
RoleName: TypeAlias = Literal["user", "assistant", "tool", "system"]
ScopeName: TypeAlias = Literal["thread", "session"]
StateName: TypeAlias = Literal[
    "queued",
    "running",
    "waiting",
    "requires_action",
    "succeeded",
    "failed",
    "cancelled",
    "superseded",
    "timed_out",
]
ThreadStateName: TypeAlias = Literal["idle", "busy"]
UntilName: TypeAlias = Literal["never", "done", "done_or_action"]
WaitModeName: TypeAlias = Literal["any", "all"]


def enum_value(enum: _EnumTypeWrapper[ValueT], value: str | int | None, argument: str) -> ValueT:
    """The number of an enum's value.

    Args:
        enum: The enum.
        value: A short name in any case, a number of the enum, or None for its zero value.
        argument: What the caller calls the value, for the error.

    Raises:
        ValueError: If it is neither; the text lists the names.
    """
    names: dict[str, ValueT] = _names(enum)
    if value is None:
        return enum.values()[0]
    if isinstance(value, str) and value.lower() in names:
        return names[value.lower()]
    if value in enum.values():
        return value
    valid = ", ".join(f'"{name}"' for name in names)
    raise ValueError(f"{argument}: {value!r} is not one of {valid}")


def enum_values(
    enum: _EnumTypeWrapper[ValueT], values: Iterable[str | int], argument: str
) -> list[ValueT]:
    """The numbers of several values; a single one may stand alone.

    Raises:
        ValueError: If one of them is not of the enum; the text lists the names.
    """
    if isinstance(values, (str, int)):
        values = [values]
    return [enum_value(enum, value, argument) for value in values]


@cache
def _names(enum: Any) -> dict[str, Any]:
    """The short names of an enum in its order, without the zero value, which means "not set"."""
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.DESCRIPTOR.name).lower() + "_"
    return {name.lower().removeprefix(prefix): number for name, number in enum.items() if number}
