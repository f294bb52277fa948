"""What events come to: the state of a run, a job and a thread as folds over their events.

The rows of the store are written with these very functions, so that a row is always what folding
the log would give.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable

from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from callboard.v1.event_pb2 import (
    Action,
    Event,
    ModelCallFinished,
    Notice,
    RunCreated,
    RunTrigger,
    StepRecorded,
)
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.message_pb2 import Message, Usage
from callboard.v1.run_pb2 import Run
from callboard_server.log.events import kinds

_QUEUED, _RUNNING = RunState.RUN_STATE_QUEUED, RunState.RUN_STATE_RUNNING


def created_run(event: Event) -> Run:
    """Returns the run that a run_created event makes."""
    made = event.run_created
    run = Run(
        run_id=event.run_id,
        thread_id=event.thread_id,
        session_id=event.session_id,
        assistant_id=made.assistant_id,
        assistant_version=made.assistant_version,
        agent=made.agent,
        state=_QUEUED,
        attempt=1,
        multitask_strategy=made.multitask_strategy,
        trigger=made.trigger,
        additional_instructions=made.additional_instructions,
        created_sequence=event.sequence,
        create_time=event.time,
    )
    for name in ("config", "metadata", "timeout", "start_after", "cancel_after_detach"):
        if made.HasField(name):
            getattr(run, name).CopyFrom(getattr(made, name))
    return run


def apply_to_run(run: Run, event: Event) -> bool:
    """Brings a run up to date with an event of its own; returns whether that changed it."""
    used = used_in(event)
    if used is not None:
        add_usage(run.usage, used)
        return True
    apply = _RUN_FOLDS.get(event.WhichOneof("payload") or "")
    if apply is None:
        return False
    apply(run, event)
    return True


def _started(run: Run, event: Event) -> None:
    run.state = _RUNNING
    run.claim_epoch = event.claim_epoch
    run.attempt = event.attempt
    run.ClearField("waiting_for")
    if not run.HasField("start_time"):
        run.start_time.CopyFrom(event.time)
    run.last_start_time.CopyFrom(event.time)


def _progressed(run: Run, event: Event) -> None:
    run.progress.CopyFrom(event.run_progress.progress)


def _waits(run: Run, event: Event) -> None:
    _stop_clock(run, event.time)
    run.state = event.run_waiting.state
    run.waiting_for.CopyFrom(event.run_waiting.waiting_for)


def _queued(run: Run, event: Event) -> None:
    _stop_clock(run, event.time)
    run.state = _QUEUED
    run.attempt = event.attempt
    run.ClearField("waiting_for")


def _stopping(run: Run, event: Event) -> None:
    run.cancel_requested = True
    run.superseded_by_run_id = event.run_cancel_requested.superseded_by_run_id
    run.rolled_back = event.run_cancel_requested.rollback
    run.stopped_by_parent = event.run_cancel_requested.by_parent


def _steered(run: Run, event: Event) -> None:
    run.steered_sequence = event.sequence


def _finished(run: Run, event: Event) -> None:
    _stop_clock(run, event.time)
    run.state = event.run_finished.state
    run.outcome.CopyFrom(event.run_finished.outcome)
    run.end_time.CopyFrom(event.time)
    run.ClearField("waiting_for")


_RUN_FOLDS: dict[str, Callable[[Run, Event], None]] = {
    "run_started": _started,
    "run_progress": _progressed,
    "run_waiting": _waits,
    "run_queued": _queued,
    "run_cancel_requested": _stopping,
    "run_input_added": _steered,
    "run_finished": _finished,
}


def _stop_clock(run: Run, now: Timestamp) -> None:
    """Adds the time since the run's last start to its running time."""
    if run.state == _RUNNING:
        ran = max(0, now.ToNanoseconds() - run.last_start_time.ToNanoseconds())
        run.running_time.FromNanoseconds(run.running_time.ToNanoseconds() + ran)


def used_in(event: Event) -> Usage | None:
    """Returns the usage that an event tells of; None where it tells of none."""
    match event.WhichOneof("payload"):
        case "message_added":
            holder: Message | ModelCallFinished = event.message_added.message
        case "model_call_finished":
            # Of a try that failed: what one that succeeded used stands in its message.
            holder = event.model_call_finished
        case "context_compacted":
            holder = event.context_compacted.summary
        case _:
            return None
    return holder.usage if holder.HasField("usage") else None


def add_usage(total: Usage, part: Usage) -> None:
    """Adds the counts of one model call to a total."""
    total.input_tokens += part.input_tokens
    total.cached_input_tokens += part.cached_input_tokens
    total.cache_write_tokens += part.cache_write_tokens
    total.output_tokens += part.output_tokens
    total.reasoning_tokens += part.reasoning_tokens
    total.model_calls += part.model_calls


def launched_job(event: Event) -> Job:
    """Returns the job that a job_launched event makes, as yet without a run."""
    made = event.job_launched
    job = Job(
        job_id=event.thread_id,
        session_id=event.session_id,
        parent_thread_id=made.parent_thread_id,
        parent_run_id=made.parent_run_id,
        assistant_id=made.assistant_id,
        agent=made.agent,
        task=made.task,
        labels=made.labels,
        notify=made.notify,
        context=made.context,
        notify_assistant_id=made.notify_assistant_id,
        notify_agent=made.notify_agent,
        webhook=made.webhook,
        waiting_run_id=made.waiting_run_id,
        create_time=event.time,
    )
    if made.HasField("timeout"):
        job.timeout.CopyFrom(made.timeout)
    return job


def adopt_run(job: Job, before: Run | None) -> None:
    """Notes that another run works on a job from now on than the one before, if there was one.

    A job without its run has the usage of all other runs on its thread: that one counts its own.
    """
    job.run_count += 1
    if before is not None and before.HasField("usage"):
        add_usage(job.usage, before.usage)


def count_other(job: Job, event: Event) -> bool:
    """Counts what a run used that is not a job's own now; returns whether that changed the job."""
    used = used_in(event) if event.run_id else None
    if used is None:
        return False
    add_usage(job.usage, used)
    return True


def apply_to_job(job: Job, event: Event) -> None:
    """Changes a job as a job_updated event says."""
    if event.job_updated.waiting_run_id:
        job.waiting_run_id = event.job_updated.waiting_run_id


def job_with_run(job: Job, run: Run) -> Job:
    """Returns a job as it stands with its current run."""
    standing = Job()
    standing.CopyFrom(job)
    standing.run_id = run.run_id
    standing.state = run.state
    standing.attempt = run.attempt
    for name in ("waiting_for", "progress", "outcome", "start_time", "end_time"):
        if run.HasField(name):
            getattr(standing, name).CopyFrom(getattr(run, name))
    if run.HasField("usage"):
        add_usage(standing.usage, run.usage)
    return standing


def works_on(created: RunCreated, current_run_id: str) -> bool:
    """Whether a new run on a job's thread works on the job from now on, after its current one."""
    takes_over = current_run_id != "" and created.follows_run_id == current_run_id
    return created.trigger == RunTrigger.RUN_TRIGGER_JOB or takes_over


JOB_KINDS = kinds(
    "job_launched",
    "job_updated",
    "run_created",
    "run_started",
    "run_progress",
    "run_waiting",
    "run_queued",
    "run_cancel_requested",
    "run_finished",
    "message_added",
    "model_call_finished",
    "context_compacted",
)
"""The kinds of events that change a job; of the last three, those that tell of usage."""


class JobsFold:
    """The jobs of a session as its events make them, one event at a time."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._runs: dict[str, Run] = {}

    def start_from(self, job: Job, run: Run) -> None:
        """Takes a job in as it stands, so that events after it can be applied."""
        self._jobs[job.job_id] = job
        self._runs[run.run_id] = run

    def apply(self, event: Event) -> Job | None:
        """Applies an event and returns the job that it changed, if it changed one."""
        match event.WhichOneof("payload"):
            case "job_launched":
                self._jobs[event.thread_id] = launched_job(event)
                return None
            case "job_updated":
                # What it changes of the job shows with the run that it comes with.
                if event.thread_id in self._jobs:
                    apply_to_job(self._jobs[event.thread_id], event)
                return None
            case "run_created" if self._works_on_job(event):
                self._adopt(event)
            case _ if event.run_id in self._runs:
                if not apply_to_run(self._runs[event.run_id], event):
                    return None
            case _:
                job = self._jobs.get(event.thread_id)
                if job is None or not count_other(job, event):
                    return None
        return self._changed(event)

    def _works_on_job(self, event: Event) -> bool:
        job = self._jobs.get(event.thread_id)
        return job is not None and works_on(event.run_created, job.run_id)

    def _adopt(self, event: Event) -> None:
        job = self._jobs[event.thread_id]
        adopt_run(job, self._runs.pop(job.run_id, None))
        job.run_id = event.run_id
        self._runs[event.run_id] = created_run(event)

    def _changed(self, event: Event) -> Job:
        job = self._jobs[event.thread_id]
        job.sequence = event.sequence
        return job_with_run(job, self._runs[job.run_id])


UNDOING_KINDS = kinds("step_recorded", "claim_voided", "runs_rolled_back")
"""The kinds of events from which it follows what was taken back."""

VALUE_KINDS = UNDOING_KINDS | kinds("values_merged")
"""The kinds of events from which a thread's values follow."""

NOTICE_KINDS = UNDOING_KINDS | kinds("notice_added", "notices_read")
"""The kinds of events from which it follows which notices are unread."""


class ThreadFold:
    """A thread's values, messages, open actions and notices as its events make them."""

    def __init__(self) -> None:
        self._messages: list[Event] = []
        self._patches: list[Event] = []
        self._readings: list[Event] = []
        self._undone = Undone()
        self.actions: dict[str, Action] = {}
        """Open actions by id."""
        self.notices: dict[str, Notice] = {}
        """All notices by id."""

    @property
    def messages(self) -> list[Message]:
        return [event.message_added.message for event in self._messages]

    @property
    def values(self) -> Struct:
        values = Struct()
        for event in self._patches:
            merge_patch(values, event.values_merged.patch)
        return values

    @property
    def unread(self) -> set[str]:
        """The ids of the notices that nobody has read."""
        read = {each for event in self._readings for each in event.notices_read.notice_ids}
        return self.notices.keys() - read

    def apply(self, event: Event) -> None:
        match event.WhichOneof("payload"):
            case "message_added":
                self._messages.append(event)
            case "values_merged":
                self._patches.append(event)
            case "step_recorded":
                self._undone.apply(event)
            case "claim_voided" | "runs_rolled_back":
                self._undone.apply(event)
                self._messages = self._undone.standing(self._messages)
                self._patches = self._undone.standing(self._patches)
                self._readings = self._undone.standing(self._readings)
            case "action_raised":
                self.actions[event.action_raised.action.action_id] = event.action_raised.action
            case "action_answered":
                self.actions.pop(event.action_answered.response.action_id, None)
            case "action_closed":
                self.actions.pop(event.action_closed.action_id, None)
            case "notice_added":
                self.notices[event.notice_added.notice.notice_id] = event.notice_added.notice
            case "notices_read":
                self._readings.append(event)


class Undone:
    """What was taken back of a thread, as its events of `UNDOING_KINDS` say, in order.

    A voided claim takes back what the run wrote under it and under those before, but not what it
    wrote within a step that was recorded by then. A rollback takes back all of a run.
    """

    def __init__(self) -> None:
        self._steps: dict[tuple[str, tuple[str, ...]], int] = {}
        """Of each recorded step, by run and path, the claim."""
        self._voided: dict[str, list[int]] = {}
        """Of each run, the last claim of each life: what came before a start from the top."""
        self._rolled_back: set[str] = set()

    def apply(self, event: Event) -> None:
        match event.WhichOneof("payload"):
            case "step_recorded":
                path = recorded_path(event.step_recorded)
                self._steps[event.run_id, path] = event.claim_epoch
            case "claim_voided":
                voided = self._voided.setdefault(event.run_id, [])
                voided.append(event.claim_voided.claim_epoch)
            case "runs_rolled_back":
                self._rolled_back.update(event.runs_rolled_back.run_ids)

    def holds(self, event: Event) -> bool:
        """Whether it takes back an event."""
        if event.run_id in self._rolled_back:
            return True
        voided = self._voided.get(event.run_id)
        if voided is None or not 0 < event.claim_epoch <= voided[-1]:
            return False
        life = bisect_left(voided, event.claim_epoch)
        path = tuple(event.step_path)
        claims = (
            self._steps.get((event.run_id, path[:depth]), 0) for depth in range(len(path), 0, -1)
        )
        return not any(claim and bisect_left(voided, claim) == life for claim in claims)

    def standing(self, events: Iterable[Event]) -> list[Event]:
        """Returns those of some events that stand."""
        return [event for event in events if not self.holds(event)]


def recorded_path(step: StepRecorded) -> tuple[str, ...]:
    """Returns the path of a step, itself included."""
    return (*step.parents, f"{step.name}#{step.occurrence}")


def merge_patch(target: Struct, patch: Struct) -> None:
    """Applies a JSON merge patch (RFC 7396) in place."""
    for name, value in patch.fields.items():
        kind = value.WhichOneof("kind")
        if kind in ("null_value", None):
            target.fields.pop(name, None)
        elif kind == "struct_value":
            merge_patch(_struct_at(target, name), value.struct_value)
        else:
            target.fields[name].CopyFrom(value)


def _struct_at(target: Struct, name: str) -> Struct:
    held: Value = target.fields[name]
    if held.WhichOneof("kind") != "struct_value":
        held.struct_value.SetInParent()
    return held.struct_value
