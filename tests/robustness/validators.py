"""The guarantees of the log and its streams, as functions over what was recorded.

Each returns the problems that it finds, a line for each; a history without any keeps the guarantee.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

from callboard.v1.event_pb2 import Event
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.run_pb2 import Delta, EventFrame

Matches = Callable[[Event], bool]

_STOPS_RUNNING = ("run_finished", "run_queued", "run_waiting")
_OF_THE_SERVER = ("run_cancel_requested", *_STOPS_RUNNING)
"""What others than the claim's own code write about a run."""


def everything(event: Event) -> bool:
    return True


def events_of(frames: Iterable[EventFrame]) -> list[Event]:
    return [event for frame in frames for event in frame.events]


def without_holes(log: Sequence[Event]) -> Iterator[str]:
    """A log begins at 1 and goes on by 1."""
    for expected, event in enumerate(log, start=1):
        if event.sequence != expected:
            yield f"event {expected} of the log says that it is {event.sequence}"
            return


def ordered(seen: Sequence[Event]) -> Iterator[str]:
    """A reader sees events in order."""
    for before, event in pairwise(seen):
        if event.sequence < before.sequence:
            yield f"event {event.sequence} came after {before.sequence}"


def unique(seen: Sequence[Event]) -> Iterator[str]:
    """A reader sees no event twice."""
    known: set[int] = set()
    for event in seen:
        if event.sequence in known:
            yield f"event {event.sequence} came twice"
        known.add(event.sequence)


def reliable(
    log: Sequence[Event],
    seen: Sequence[Event],
    *,
    after: int = 0,
    through: int | None = None,
    matches: Matches = everything,
) -> Iterator[str]:
    """A reader sees every event after its cursor that it asked for, and no other."""
    end = log[-1].sequence if through is None and log else through or 0
    wanted = {e.sequence: e for e in log if after < e.sequence <= end and matches(e)}
    for sequence in sorted(wanted.keys() - {event.sequence for event in seen}):
        yield f"event {sequence} never came"
    for event in seen:
        if event.sequence <= end and event.sequence not in wanted:
            yield f"event {event.sequence} came unasked"


def atomic(log: Sequence[Event], seen: Sequence[Event]) -> Iterator[str]:
    """What was seen is in the log for good, and what was written together is there together."""
    kept = {event.sequence: event for event in log}
    for event in seen:
        if event.sequence not in kept:
            yield f"event {event.sequence} was seen and is not in the log"
        elif kept[event.sequence] != event:
            yield f"event {event.sequence} was seen otherwise than it is in the log"
    for position, event in enumerate(log):
        if event.HasField("job_launched"):
            near = log[max(0, position - 1) : position + 3]
            together = {e.WhichOneof("payload") for e in near if e.time == event.time}
            if not together >= {"thread_created", "run_created"}:
                yield f"the launch at {event.sequence} is not whole"


def resumable(log: Sequence[Event], readings: Sequence[Sequence[EventFrame]]) -> Iterator[str]:
    """Readings, each from the cursor that the one before handed out last, come to the whole log."""
    cursor = 0
    seen: list[Event] = []
    for frames in readings:
        for event in events_of(frames):
            if event.sequence <= cursor:
                yield f"event {event.sequence} came again after the cursor {cursor}"
            seen.append(event)
        cursor = max([cursor, *(frame.through_sequence for frame in frames)])
    yield from reliable(log, seen, through=cursor)


def bookmarkable(
    log: Sequence[Event],
    frames: Sequence[EventFrame],
    *,
    after: int = 0,
    matches: Matches = everything,
) -> Iterator[str]:
    """Every frame says up to where everything that matches was sent, and that is true."""
    sent: set[int] = set()
    through = after
    for number, frame in enumerate(frames):
        if frame.through_sequence < through:
            yield f"frame {number} goes back from {through} to {frame.through_sequence}"
        through = frame.through_sequence
        sent |= {event.sequence for event in frame.events}
        for event in frame.events:
            if event.sequence > through:
                yield f"frame {number} says {through} and holds {event.sequence}"
        for event in log:
            if after < event.sequence <= through and matches(event) and event.sequence not in sent:
                yield f"frame {number} says {through}, but {event.sequence} was not sent"


def terminal_last(log: Sequence[Event], *, unfinished: Iterable[str] = ()) -> Iterator[str]:
    """A run has one end, and that is its last event."""
    ends: dict[str, int] = {}
    known: set[str] = set()
    for event in log:
        if not event.run_id:
            continue
        known.add(event.run_id)
        if event.run_id in ends:
            yield (
                f"run {event.run_id} ended at {ends[event.run_id]} "
                f"and has {event.WhichOneof('payload')} at {event.sequence}"
            )
        if event.HasField("run_finished"):
            ends[event.run_id] = event.sequence
            if event.run_finished.state < RunState.RUN_STATE_SUCCEEDED:
                yield f"run {event.run_id} ended in a state that is no end"
    for run_id in sorted(known - ends.keys() - set(unfinished)):
        yield f"run {run_id} has no end"


def fenced(log: Sequence[Event]) -> Iterator[str]:
    """Claims have growing epochs, only the last writes, and a thread has one run at work."""
    epochs: dict[str, int] = defaultdict(int)
    at_work: dict[str, str] = {}
    for event in log:
        run, kind = event.run_id, event.WhichOneof("payload")
        if not run:
            continue
        if kind == "run_started":
            if event.claim_epoch != epochs[run] + 1:
                yield f"run {run} was claimed with epoch {event.claim_epoch} after {epochs[run]}"
            epochs[run] = event.claim_epoch
            if event.thread_id in at_work:
                yield f"run {run} started while {at_work[event.thread_id]} was at work"
            at_work[event.thread_id] = run
        elif event.claim_epoch != epochs[run]:
            yield f"event {event.sequence} has epoch {event.claim_epoch}, not {epochs[run]}"
        elif epochs[run] and at_work.get(event.thread_id) != run and kind not in _OF_THE_SERVER:
            yield f"event {event.sequence} was written while run {run} was not at work"
        if kind in _STOPS_RUNNING and at_work.get(event.thread_id) == run:
            del at_work[event.thread_id]


def gapless(deltas: Sequence[Delta], *, started: bool = True) -> Iterator[str]:
    """The pieces of a block follow each other without gaps, from the beginning if `started`."""
    ends: dict[tuple[str, int], int] = {}
    for delta in deltas:
        block = delta.message_id, delta.index
        expected = ends.get(block, 0 if started else delta.offset)
        if delta.offset != expected:
            yield f"block {block} goes on at {delta.offset}, not {expected}"
        ends[block] = delta.offset + len(delta.text.encode())


def check_log(log: Sequence[Event], *, unfinished: Iterable[str] = ()) -> list[str]:
    """All that a log alone can show."""
    return [
        *without_holes(log),
        *terminal_last(log, unfinished=unfinished),
        *fenced(log),
        *atomic(log, []),
    ]


def check_reading(
    log: Sequence[Event],
    frames: Sequence[EventFrame],
    *,
    after: int = 0,
    matches: Matches = everything,
    complete: bool = True,
) -> list[str]:
    """All that one reading shows against the log.

    Args:
        log: the whole log, from 1.
        frames: what came.
        after: where the reading began.
        matches: what was asked for.
        complete: whether the reading went on to the end of the log.
    """
    seen = events_of(frames)
    through = None if complete else max([after, *(frame.through_sequence for frame in frames)])
    return [
        *ordered(seen),
        *unique(seen),
        *reliable(log, seen, after=after, through=through, matches=matches),
        *bookmarkable(log, frames, after=after, matches=matches),
        *atomic(log, seen),
    ]
