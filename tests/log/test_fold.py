"""What events come to."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from callboard.structs import to_dict, to_struct
from callboard.v1.event_pb2 import Event, RunTrigger
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.run_pb2 import Run
from callboard_server.log.fold import (
    JobsFold,
    ThreadFold,
    adopt_run,
    apply_to_run,
    count_other,
    created_run,
    launched_job,
    merge_patch,
    used_in,
)

SECOND = 10**9

leaves = st.none() | st.booleans() | st.integers(-100, 100) | st.text(max_size=3)
names = st.sampled_from("abc")
values = st.recursive(leaves, lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=8)
objects = st.dictionaries(names, values, max_size=3)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2, on plain values."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@given(patches=st.lists(objects, max_size=5))
def test_patches_are_merged_as_rfc_7396_says(patches: list[dict[str, object]]) -> None:
    struct = to_struct({})
    plain: dict[str, object] = {}
    for patch in patches:
        merge_patch(struct, to_struct(patch))
        plain = merged(plain, patch)
    assert to_dict(struct) == plain


def event(sequence: int, thread: str, run: str = "", epoch: int = 0, at: int = 0) -> Event:
    made = Event(sequence=sequence, thread_id=thread, run_id=run, claim_epoch=epoch, attempt=1)
    made.time.FromNanoseconds(at)
    return made


def started(sequence: int, run: str, epoch: int, at: int = 0, thread: str = "t") -> Event:
    made = event(sequence, thread, run, epoch, at)
    made.run_started.worker_id = "w"
    return made


def test_running_time_is_the_time_between_starts_and_stops() -> None:
    made = event(1, "t", "r")
    made.run_created.agent = "a"
    run = created_run(made)
    queued = event(3, "t", "r", 1, at=5 * SECOND)
    queued.run_queued.reason = queued.run_queued.REASON_DRAINED
    finished = event(5, "t", "r", 2, at=12 * SECOND)
    finished.run_finished.state = RunState.RUN_STATE_SUCCEEDED
    for each in (
        started(2, "r", 1, at=2 * SECOND),
        queued,
        started(4, "r", 2, at=10 * SECOND),
        finished,
    ):
        assert apply_to_run(run, each)
    assert run.running_time.ToSeconds() == 3 + 2
    assert (run.start_time.ToSeconds(), run.end_time.ToSeconds()) == (2, 12)
    assert run.state == RunState.RUN_STATE_SUCCEEDED


def message(sequence: int, text: str, run: str, epoch: int) -> Event:
    made = event(sequence, "t", run, epoch)
    made.message_added.message.content.add().text.text = text
    return made


def test_what_a_voided_claim_wrote_does_not_count() -> None:
    fold = ThreadFold()
    patch = event(3, "t", "r", 1)
    patch.values_merged.patch.CopyFrom(to_struct({"by": "first"}))
    voided = event(4, "t", "r", 2)
    voided.claim_voided.claim_epoch = 1
    for each in (
        message(1, "input", "r", 0),
        message(2, "first", "r", 1),
        patch,
        voided,
        message(5, "second", "r", 2),
    ):
        fold.apply(each)
    assert [m.content[0].text.text for m in fold.messages] == ["input", "second"]
    assert to_dict(fold.values) == {}


@st.composite
def job_logs(draw: st.DrawFn) -> list[Event]:
    """The log of a session in which jobs are launched, work, and are redirected."""
    log: list[Event] = []
    runs: dict[str, str] = {}

    def add(made: Event) -> None:
        made.sequence = len(log) + 1
        log.append(made)

    for _ in range(draw(st.integers(1, 25))):
        job = draw(st.sampled_from(["j1", "j2"]))
        if job not in runs:
            launched = event(0, job)
            launched.job_launched.task = job
            add(launched)
        move = draw(st.sampled_from(["run", "start", "progress", "finish", "use", "other"]))
        if move == "run" or job not in runs:
            runs[job] = f"{job}-{len(log)}"
            made = event(0, job, runs[job])
            made.run_created.trigger = RunTrigger.RUN_TRIGGER_JOB
            add(made)
        elif move == "start":
            add(started(0, runs[job], 1, thread=job))
        elif move == "progress":
            made = event(0, job, runs[job], 1)
            made.run_progress.progress.current = len(log)
            add(made)
        elif move == "finish":
            made = event(0, job, runs[job], 1)
            made.run_finished.state = RunState.RUN_STATE_FAILED
            add(made)
        elif move == "use":
            # Also a run that was superseded may say one thing more.
            runs_before = [each.run_id for each in log if each.HasField("run_created")]
            by = draw(st.sampled_from([run for run in runs_before if run.startswith(job)]))
            add(draw(st.sampled_from([said, tried, summarised]))(job, by, len(log)))
        else:
            made = event(0, job, f"{job}: someone else's")
            made.run_created.trigger = RunTrigger.RUN_TRIGGER_CLIENT
            add(made)
    return log


def said(job: str, run: str, tokens: int) -> Event:
    made = event(0, job, run, 1)
    # A message without usage is none of a model.
    if tokens % 3:
        made.message_added.message.usage.output_tokens = tokens
    else:
        made.message_added.message.incomplete = True
    return made


def tried(job: str, run: str, tokens: int) -> Event:
    made = event(0, job, run, 1)
    made.model_call_finished.usage.output_tokens = tokens
    return made


def summarised(job: str, run: str, tokens: int) -> Event:
    made = event(0, job, run, 1)
    made.context_compacted.summary.usage.output_tokens = tokens
    return made


def standing(log: list[Event]) -> JobsFold:
    """A fold that starts from how the jobs stand after a log, as their rows would say."""
    jobs: dict[str, Job] = {}
    runs: dict[str, Run] = {}
    for each in log:
        match each.WhichOneof("payload"):
            case "job_launched":
                jobs[each.thread_id] = launched_job(each)
            case "run_created" if each.run_created.trigger == RunTrigger.RUN_TRIGGER_JOB:
                job = jobs[each.thread_id]
                runs[each.run_id] = created_run(each)
                adopt_run(job, runs.get(job.run_id))
                job.run_id = each.run_id
            case _ if each.thread_id in jobs and jobs[each.thread_id].run_id != each.run_id:
                count_other(jobs[each.thread_id], each)
            case _:
                apply_to_run(runs[each.run_id], each)
    fold = JobsFold()
    for job in jobs.values():
        if job.run_id:
            fold.start_from(job, runs[job.run_id])
    return fold


@given(log=job_logs(), data=st.data())
def test_jobs_folded_from_any_point_change_as_from_the_start(
    log: list[Event], data: st.DataObject
) -> None:
    # A job and its first run are committed together: no reader starts between them.
    cuts = [n for n in range(len(log) + 1) if not _is_between(log, n)]
    cut = data.draw(st.sampled_from(cuts))
    whole = JobsFold()
    expected = [whole.apply(each) for each in log][cut:]
    later = standing(log[:cut])
    assert [later.apply(each) for each in log[cut:]] == expected


@given(log=job_logs())
def test_a_job_counts_what_all_runs_on_its_thread_use_each_once(log: list[Event]) -> None:
    fold, used, shown = JobsFold(), Counter[str](), dict[str, Job]()
    for each in log:
        changed = fold.apply(each)
        if changed is not None:
            shown[changed.job_id] = changed
        told = used_in(each)
        used[each.thread_id] += told.output_tokens if told is not None else 0
        # A change of it is told at once.
        assert changed is not None or told is None
    assert {job_id: job.usage.output_tokens for job_id, job in shown.items()} == dict(used)


def _is_between(log: list[Event], cut: int) -> bool:
    return cut > 0 and log[cut - 1].WhichOneof("payload") == "job_launched"
