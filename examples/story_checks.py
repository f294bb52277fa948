"""What must be true of the story, read back from its log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from callboard import text_of
from callboard.v1.event_pb2 import Event
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.message_pb2 import Role
from citations import check_citations, parse_citations
from stage import Check, make_checks

BRIEF = 0.5
"""Seconds that a job takes at least on a folder of some size."""


@dataclass(frozen=True, slots=True)
class Story:
    """What happened."""

    thread_id: str
    """The supervisor's thread."""
    folder: Path
    jobs: Sequence[Job]
    """The jobs, as the watch showed them last."""
    watched: Sequence[Event]
    """The session's events as a stream showed them live."""
    log: Sequence[Event]
    """The session's events as the log has them afterwards."""

    @property
    def is_brief(self) -> bool:
        """Whether a job took so little time that the other need not have met it."""
        took = [job.end_time.ToNanoseconds() - job.start_time.ToNanoseconds() for job in self.jobs]
        return min(took, default=0) < BRIEF * 1e9

    @property
    def job_ids(self) -> set[str]:
        return {job.job_id for job in self.jobs}


def check_story(story: Story) -> int:
    """Makes every check and prints what came of it; returns the exit code."""
    return make_checks("story", story, CHECKS, NEED_TIME if story.is_brief else ())


def two_jobs_succeeded(story: Story) -> str:
    """Two jobs were launched and both succeeded."""
    states = [RunState.Name(job.state) for job in story.jobs]
    return "" if states == ["RUN_STATE_SUCCEEDED"] * 2 else str(states)


def both_ran_at_once(story: Story) -> str:
    """Both jobs were RUNNING at one sequence of the log."""
    at_once = any(running == story.job_ids for running in _running_jobs(story))
    return "" if at_once else "they never were"


def _running_jobs(story: Story) -> Iterator[set[str]]:
    running: set[str] = set()
    for event in story.log:
        if event.thread_id in story.job_ids:
            match event.WhichOneof("payload"):
                case "run_started":
                    running.add(event.thread_id)
                case "run_finished":
                    running.discard(event.thread_id)
        yield set(running)


def supervisor_talked_meanwhile(story: Story) -> str:
    """The supervisor said something between the launch and the first result."""
    launched = max(_sequences(story, "job_launched"), default=0)
    first_result = min(_ends(story), default=0)
    spoken = [
        event.sequence
        for event in story.log
        if event.thread_id == story.thread_id
        and event.message_added.message.role == Role.ROLE_ASSISTANT
        and text_of(event.message_added.message)
    ]
    said = [sequence for sequence in spoken if launched < sequence < first_result]
    return "" if said else f"launch {launched}, words {spoken}, first result {first_result}"


def _sequences(story: Story, kind: str) -> list[int]:
    return [event.sequence for event in story.log if event.WhichOneof("payload") == kind]


def _ends(story: Story) -> list[int]:
    ends = _sequences(story, "run_finished")
    return [n for n in ends if story.log[n - 1].thread_id in story.job_ids]


def log_has_no_holes(story: Story) -> str:
    """The log goes from 1 up by 1."""
    found = [event.sequence for event in story.log]
    return "" if found == list(range(1, len(found) + 1)) else str(found)


def stream_showed_the_log(story: Story) -> str:
    """The live stream showed the same events, each once and in order."""
    seen = [event.sequence for event in story.watched]
    logged = [event.sequence for event in story.log[: len(seen)]]
    if seen != logged or list(story.watched) != list(story.log[: len(seen)]):
        return f"{seen} instead of {logged}"
    return "" if max(_ends(story)) <= len(seen) else "it ended too early"


def results_are_in_the_log(story: Story) -> str:
    """The results are those of the log."""
    logged = {
        event.thread_id: text_of(event.run_finished.outcome.result)
        for event in story.log
        if event.WhichOneof("payload") == "run_finished"
    }
    wrong = [j.agent for j in story.jobs if logged.get(j.job_id) != text_of(j.outcome.result)]
    return f"not so for {wrong}" if wrong else ""


def citations_are_true(story: Story) -> str:
    """Every cited line was read again from its file and is equal."""
    results = [text_of(job.outcome.result) for job in story.jobs]
    problems = [each for text in results for each in check_citations(text, str(story.folder))]
    if not any(parse_citations(text) for text in results) and "found" not in "".join(results):
        problems.append("nothing is cited")
    return "; ".join(problems[:3])


CHECKS: Sequence[Check[Story]] = (
    two_jobs_succeeded,
    both_ran_at_once,
    supervisor_talked_meanwhile,
    log_has_no_holes,
    stream_showed_the_log,
    results_are_in_the_log,
    citations_are_true,
)
NEED_TIME = (both_ran_at_once, supervisor_talked_meanwhile)
"""Checks of what takes some time to be seen."""
