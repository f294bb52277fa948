"""Facts about events that hold for every kind."""

from __future__ import annotations

from callboard.v1.event_pb2 import Event

KINDS: dict[str, int] = {
    field.name: field.number for field in Event.DESCRIPTOR.oneofs_by_name["payload"].fields
}
"""The EventKind of each payload's field."""


EVENT_BYTES = 4 * 1024 * 1024
"""The largest event. A frame of a stream holds any one of them."""


def kind_of(event: Event) -> int:
    """Returns the EventKind of an event; 0 where it has no payload."""
    return KINDS.get(event.WhichOneof("payload") or "", 0)


def kinds(*names: str) -> frozenset[int]:
    """Returns the EventKinds of payload fields."""
    return frozenset(KINDS[name] for name in names)


THREAD_STATE = kinds(
    "message_added", "values_merged", "action_raised", "action_answered", "action_closed"
)
"""The kinds that move Thread.sequence."""

CONDENSED = kinds(
    "thread_created",
    "thread_idle",
    "thread_message_sent",
    "thread_message_received",
    "run_progress",
    "run_finished",
    "action_raised",
    "action_answered",
    "action_closed",
    "job_launched",
    "job_updated",
    "notice_added",
)
"""What the condensed view shows of threads other than the one it is asked for."""


def without_provider_state(event: Event) -> Event:
    """Takes out of an event what is for a model's provider alone, and returns it."""
    if event.HasField("message_added"):
        event.message_added.message.ClearField("provider_state")
    return event


def redacted(event: Event) -> Event:
    """Returns what is left of an event whose payload was erased."""
    left = Event()
    left.CopyFrom(event)
    left.ClearField("payload")
    left.redacted = True
    return left
