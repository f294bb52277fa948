"""The guarantees of the log and its streams, as functions over what was recorded.

Each returns the problems that it finds, a line for each; a history without any keeps the guarantee.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from callboard.v1.event_pb2 import Actor, Event, StepRecorded
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import MultitaskStrategy, RunState
from callboard.v1.message_pb2 import Role
from callboard.v1.run_pb2 import Delta, EventFrame

Matches = Callable[[Event], bool]

_CONCURRENT = MultitaskStrategy.MULTITASK_STRATEGY_CONCURRENT

_STOPS_RUNNING = ("run_finished", "run_queued", "run_waiting")
_OF_THE_SERVER = (
    "run_cancel_requested",
    "run_input_added",
    "action_answered",
    "action_closed",
    *_STOPS_RUNNING,
)
"""What others than the claim's own code write about a run."""
_INPUT = ("message_added", "values_merged")
"""What a run is given, also while it is at work."""


_SLEEP = "sleep"
"""The step that a sleep records; it does nothing outside of the log."""


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


def durable(log: Sequence[Event], seen: Iterable[Event]) -> Iterator[str]:
    """What was seen is in the log for good, as it was seen."""
    kept = {event.sequence: event for event in log}
    for event in seen:
        if event.sequence not in kept:
            yield f"event {event.sequence} was seen and is not in the log"
        elif kept[event.sequence] != event:
            yield f"event {event.sequence} was seen otherwise than it is in the log"


def atomic(log: Sequence[Event]) -> Iterator[str]:
    """What was written together is there together."""
    together: defaultdict[tuple[str, int], set[str | None]] = defaultdict(set)
    for event in log:
        written = event.thread_id, event.time.ToNanoseconds()
        together[written].add(event.WhichOneof("payload"))
    for event in log:
        if event.HasField("job_launched"):
            written = event.thread_id, event.time.ToNanoseconds()
            if not together[written] >= {"thread_created", "run_created"}:
                yield f"the launch at {event.sequence} is not whole"


def resumable(
    log: Sequence[Event],
    readings: Sequence[Sequence[EventFrame]],
    *,
    after: int = 0,
    matches: Matches = everything,
) -> Iterator[str]:
    """Readings, each from the cursor that the one before handed out last, come to the whole log."""
    cursor = after
    seen: list[Event] = []
    for frames in readings:
        for event in events_of(frames):
            if event.sequence <= cursor:
                yield f"event {event.sequence} came again after the cursor {cursor}"
            seen.append(event)
        cursor = last_cursor(frames, cursor)
    yield from reliable(log, seen, after=after, through=cursor, matches=matches)


def last_cursor(frames: Iterable[EventFrame], after: int) -> int:
    """The cursor that a reading handed out last."""
    return max([after, *(frame.through_sequence for frame in frames)])


def bookmarkable(
    log: Sequence[Event],
    frames: Sequence[EventFrame],
    *,
    after: int = 0,
    matches: Matches = everything,
) -> Iterator[str]:
    """Every frame says up to where everything that matches was sent, and that is true."""
    wanted = iter([e.sequence for e in log if e.sequence > after and matches(e)])
    following = next(wanted, None)
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
        while following is not None and following <= through:
            if following not in sent:
                yield f"frame {number} says {through}, but {following} was not sent"
            following = next(wanted, None)


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


def _is_of_the_server(event: Event) -> bool:
    """Whether others than its code write an event of a run: they also close its tool calls."""
    by_server = event.actor.kind == Actor.KIND_SERVER and event.HasField("message_added")
    return by_server or event.WhichOneof("payload") in _OF_THE_SERVER


def fenced(log: Sequence[Event]) -> Iterator[str]:
    """Claims have growing epochs, only the last writes, and a thread has one run at work."""
    epochs: dict[str, int] = defaultdict(int)
    at_work: dict[str, set[str]] = defaultdict(set)
    beside: set[str] = set()
    for event in log:
        run, kind, busy = event.run_id, event.WhichOneof("payload"), at_work[event.thread_id]
        if not run:
            continue
        if kind == "run_created" and event.run_created.multitask_strategy == _CONCURRENT:
            beside.add(run)
        if kind == "run_started":
            if event.claim_epoch != epochs[run] + 1:
                yield f"run {run} was claimed with epoch {event.claim_epoch} after {epochs[run]}"
            epochs[run] = event.claim_epoch
            for other in busy - beside if run not in beside else ():
                yield f"run {run} started while {other} was at work"
            busy.add(run)
        elif kind in _INPUT and not event.claim_epoch:
            continue
        elif event.claim_epoch != epochs[run]:
            yield f"event {event.sequence} has epoch {event.claim_epoch}, not {epochs[run]}"
        elif epochs[run] and run not in busy and not _is_of_the_server(event):
            yield f"event {event.sequence} was written while run {run} was not at work"
        if kind in _STOPS_RUNNING:
            busy.discard(run)


def started_by(log: Iterable[Event], workers: Mapping[str, int]) -> Iterator[str]:
    """No server claims anything behind the sequence at which another had taken over.

    Args:
        log: The log.
        workers: By worker id, the last sequence at which it may have claimed.
    """
    for event in log:
        worker = event.run_started.worker_id
        if worker in workers and event.sequence > workers[worker]:
            yield f"event {event.sequence} is a claim of {worker}, which lost the file before"


class Effect(NamedTuple):
    """Something that code of an agent did outside of the log."""

    run_id: str
    claim_epoch: int
    work: str
    """The step (`step parents/name#occurrence`) or the tool (`tool name arguments`) that did it."""


def step_work(step: StepRecorded) -> str:
    """Names what a step does."""
    return f"step {'/'.join((*step.parents, f'{step.name}#{step.occurrence}'))}"


def tool_work(name: str, arguments: Mapping[str, object]) -> str:
    """Names what a tool does with its arguments."""
    return f"tool {name} {json.dumps(arguments, sort_keys=True)}"


def done_once(log: Sequence[Event], effects: Iterable[Effect]) -> Iterator[str]:
    """What was recorded is never done again, and nothing is recorded that was not done."""
    recorded, started = _recorded(log), _started(log)
    claims: dict[tuple[str, str], list[int]] = defaultdict(list)
    for effect in effects:
        claims[effect.run_id, effect.work].append(effect.claim_epoch)
    for key, epochs in claims.items():
        run, work = key
        for epoch, count in Counter(epochs).items():
            if count > 1:
                yield f"{work} of run {run} was done {count} times in claim {epoch}"
            if epoch > recorded.get(key, epoch):
                yield f"{work} of run {run} was recorded and done again in claim {epoch}"
            if work.startswith("tool") and epoch < started.get(key, epoch + 1):
                yield f"{work} of run {run} ran in claim {epoch} and was not announced"
    for key, epoch in recorded.items():
        if epoch not in claims[key]:
            yield f"{key[1]} of run {key[0]} is recorded by claim {epoch}, which did not do it"


def _recorded(log: Iterable[Event]) -> dict[tuple[str, str], int]:
    """By run and work, the claim that recorded its result first."""
    found: dict[tuple[str, str], int] = {}
    calls: dict[str, str] = {}
    for event in log:
        if event.HasField("step_recorded") and event.step_recorded.name != _SLEEP:
            found.setdefault((event.run_id, step_work(event.step_recorded)), event.claim_epoch)
        if event.HasField("tool_started"):
            call = event.tool_started.call
            calls[call.tool_call_id] = tool_work(call.name, json.loads(call.arguments_json))
        for block in event.message_added.message.content:
            result = block.tool_result
            if result.tool_call_id in calls and not result.outcome_unknown and not result.is_error:
                found.setdefault((event.run_id, calls[result.tool_call_id]), event.claim_epoch)
    return found


def _started(log: Iterable[Event]) -> dict[tuple[str, str], int]:
    """By run and tool, the claim that announced it."""
    found: dict[tuple[str, str], int] = {}
    for event in log:
        if event.HasField("tool_started"):
            call = event.tool_started.call
            work = tool_work(call.name, json.loads(call.arguments_json))
            found.setdefault((event.run_id, work), event.claim_epoch)
    return found


def started_once(log: Sequence[Event]) -> Iterator[str]:
    """A tool that may not be repeated is started once, and every call has one result at the most.

    A fork has the calls and results of its parent on a thread of its own. A model is not called
    again while the calls of its last answer are open.
    """
    started: Counter[str] = Counter()
    results: Counter[tuple[str, str]] = Counter()
    open_calls: dict[str, set[str]] = defaultdict(set)
    for event in log:
        if event.HasField("tool_started") and not event.tool_started.idempotent:
            started[event.tool_started.call.tool_call_id] += 1
        message, calls = event.message_added.message, open_calls[event.run_id]
        if message.role == Role.ROLE_ASSISTANT and calls:
            yield f"event {event.sequence} is an answer, and {len(calls)} calls were open"
        for block in message.content:
            if block.HasField("tool_call"):
                calls.add(block.tool_call.tool_call_id)
            elif block.HasField("tool_result"):
                calls.discard(block.tool_result.tool_call_id)
                results[event.thread_id, block.tool_result.tool_call_id] += 1
    answered = [(call, count) for (_, call), count in results.items()]
    for call, count in [*started.items(), *answered]:
        if count > 1:
            yield f"tool call {call} was started, or has a result, {count} times"


def asked_once(log: Sequence[Event]) -> Iterator[str]:
    """What a run asks for is asked once, and ends once, at the latest with the run."""
    open_actions: dict[str, str] = {}
    known: set[str] = set()
    for event in log:
        raised = event.action_raised.action.action_id
        ended = event.action_answered.response.action_id or event.action_closed.action_id
        if raised:
            if raised in known:
                yield f"action {raised} was raised twice"
            known.add(raised)
            open_actions[raised] = event.run_id
        if ended and open_actions.pop(ended, None) is None:
            yield f"action {ended} ended at {event.sequence} and was not open"
        if event.HasField("run_finished"):
            for action, run in open_actions.items():
                if run == event.run_id:
                    yield f"run {run} ended and left action {action} open"


def told_once(log: Sequence[Event]) -> Iterator[str]:
    """What a thread is told of a job it is told once, with a message, before anybody reads it."""
    told: set[tuple[str, str]] = set()
    notices: set[str] = set()
    said = {event.message_added.message.notice_id for event in log}
    for event in log:
        notice = event.notice_added.notice
        if notice.notice_id:
            notices.add(notice.notice_id)
            subjects = [action.action_id for action in notice.actions] or [notice.run_id]
            for subject in subjects:
                if (notice.job_id, subject) in told:
                    yield f"notice {notice.notice_id} tells what was told before"
                told.add((notice.job_id, subject))
            if notice.notice_id not in said:
                yield f"notice {notice.notice_id} has no message"
        for read in event.notices_read.notice_ids:
            if read not in notices:
                yield f"notice {read} was read at {event.sequence} and not told before"


class Input(NamedTuple):
    """Something that a client sent and that the server said it took."""

    text: str
    thread_id: str
    run_id: str


def inputs_of(log: Iterable[Event]) -> Iterator[tuple[str, Event]]:
    """What was said to the threads of a log from outside, with the events that say it."""
    for event in log:
        message = event.message_added.message
        if message.role == Role.ROLE_USER and not message.notice_id:
            yield "".join(block.text.text for block in message.content), event


def acknowledged(logs: Iterable[Sequence[Event]], inputs: Iterable[Input]) -> Iterator[str]:
    """Everything that the server took is there, where it said."""
    found = {
        Input(text, event.thread_id, event.run_id) for log in logs for text, event in inputs_of(log)
    }
    for each in inputs:
        if each not in found:
            yield f"{each.text!r} was taken for run {each.run_id} and is not in the log"


def left_out(
    logs: Iterable[Sequence[Event]], refused: Iterable[str], deleted: Iterable[str]
) -> Iterator[str]:
    """What the server refused is not there, and what it deleted does not come back."""
    whole = [event for log in logs for event in log]
    for text in {text for text, _ in inputs_of(whole)} & set(refused):
        yield f"{text!r} was refused and is in the log"
    for thread_id in {event.thread_id for event in whole} & set(deleted):
        yield f"thread {thread_id} was deleted and is there"


def taken_once(logs: Iterable[Sequence[Event]]) -> Iterator[str]:
    """Nothing was taken twice, where every request has a text of its own."""
    texts = Counter(text for log in logs for text, _ in inputs_of(log))
    for text, count in texts.items():
        if count > 1:
            yield f"{text!r} was taken {count} times"


def jobs_in_order(seen: Sequence[Job]) -> Iterator[str]:
    """A watch never goes back, neither in its sequences nor from an end to the same run at work."""
    for before, job in pairwise(seen):
        if job.sequence < before.sequence:
            yield f"job {job.job_id} came as of {job.sequence} after {before.sequence}"
        over = before.state >= RunState.RUN_STATE_SUCCEEDED
        if over and job.run_id == before.run_id and job.state != before.state:
            yield f"job {job.job_id} was over and came as {RunState.Name(job.state)}"


def gapless(deltas: Sequence[Delta], *, started: bool = True) -> Iterator[str]:
    """The pieces of a block follow each other without gaps, from the beginning if `started`."""
    ends: dict[tuple[str, int], int] = {}
    for delta in deltas:
        block = delta.message_id, delta.index
        expected = ends.get(block, 0 if started else delta.offset)
        if delta.offset != expected:
            yield f"block {block} goes on at {delta.offset}, not {expected}"
        ends[block] = delta.offset + len(delta.text.encode())


def replaced(log: Iterable[Event], deltas: Sequence[Delta]) -> Iterator[str]:
    """What was streamed of a message is how the message begins that replaced it."""
    texts: dict[tuple[str, int], str] = defaultdict(str)
    for delta in deltas:
        if delta.kind == Delta.KIND_TEXT:
            texts[delta.message_id, delta.index] += delta.text
    messages = {e.message_added.message.message_id: e.message_added.message for e in log}
    for (message_id, index), text in texts.items():
        content = messages[message_id].content if message_id in messages else ()
        if content and not content[index].text.text.startswith(text):
            yield f"block {index} of message {message_id} was streamed otherwise than it is"


def check_log(log: Sequence[Event], *, unfinished: Iterable[str] = ()) -> list[str]:
    """All that a log alone can show."""
    return [
        *without_holes(log),
        *terminal_last(log, unfinished=unfinished),
        *fenced(log),
        *atomic(log),
        *started_once(log),
        *asked_once(log),
        *told_once(log),
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
        log: The whole log, from 1.
        frames: What came.
        after: Where the reading began.
        matches: What was asked for.
        complete: Whether the reading went on to the end of the log.
    """
    seen = events_of(frames)
    through = None if complete else last_cursor(frames, after)
    return [
        *ordered(seen),
        *unique(seen),
        *reliable(log, seen, after=after, through=through, matches=matches),
        *bookmarkable(log, frames, after=after, matches=matches),
        *durable(log, seen),
    ]
