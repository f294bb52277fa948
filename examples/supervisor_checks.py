"""What must be true of a supervisor and its jobs, read back from the log and its conversation."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

from callboard import AsyncJobNotice, Event, Job, Role, RunState, text_of
from stage import Check, make_checks

ASKED, ENOUGH = 600, 100
"""How wide the gap between primes shall be, at first and then."""


@dataclass(frozen=True, slots=True)
class Line:
    """A part of the conversation with a model."""

    who: str
    """user, assistant or notice; call where it is a tool's name."""
    text: str


@dataclass(frozen=True, slots=True)
class Kill:
    """How a program was killed."""

    code: int
    """Its exit code."""
    jobs: Sequence[Job]
    """What it had launched."""
    lines: Sequence[Line]
    """The conversation as it left it."""
    was_held: bool
    """Whether its model could not answer before."""


@dataclass(frozen=True, slots=True)
class Act:
    """What happened with one supervisor."""

    name: str
    thread_id: str
    """Its thread: what it launched belongs there."""
    meanwhile: Sequence[Job]
    """The jobs right after it had talked of something else."""
    jobs: Sequence[Job]
    notices: Sequence[AsyncJobNotice]
    """What it was told, and whether it was read."""
    log: Sequence[Event]
    """The whole session."""
    lines: Sequence[Line] = ()
    """Its conversation with the model."""
    kill: Kill | None = None

    def job(self, agent: str) -> Job:
        return next((job for job in self.jobs if job.agent == agent), Job())

    def of_job(self, agent: str, kind: str) -> Sequence[Event]:
        """The events of some kind on the thread of an agent's job."""
        job_id = self.job(agent).job_id
        return [e for e in self.log if e.thread_id == job_id and e.WhichOneof("payload") == kind]

    def calls(self, name: str) -> int:
        return sum(line.who == "call" and line.text == name for line in self.lines)


def check_act(act: Act) -> int:
    """Makes every check and prints what came of it; returns the exit code."""
    if act.kill is None:
        return make_checks(act.name, act, CHECKS)
    optional = () if act.kill.was_held else (was_killed_unanswered,)
    return make_checks(act.name, act, CHECKS + OF_KILLED, optional)


def logged_lines(log: Sequence[Event], thread_id: str) -> Sequence[Line]:
    """Returns the conversation of a supervisor on the server."""

    def lines() -> Iterator[Line]:
        messages = [e.message_added.message for e in log if e.thread_id == thread_id]
        for message in messages:
            role = "notice" if message.notice_id else Role.Name(message.role).lower()[5:]
            for block in message.content:
                if block.HasField("text"):
                    yield Line(role, block.text.text)
                elif block.HasField("tool_call"):
                    yield Line("call", block.tool_call.name)

    return list(lines())


def kept_lines(file: Path) -> Sequence[Line]:
    """Returns the conversation that a supervisor elsewhere has kept."""

    def lines() -> Iterator[Line]:
        for entry in map(json.loads, file.read_text("utf-8").splitlines()):
            role, content = entry["message"]["role"], entry["message"]["content"]
            if isinstance(content, str):
                yield Line("notice" if entry["notice_id"] else role, content)
                continue
            for block in content:
                if block["type"] == "text":
                    yield Line(role, block["text"])
                elif block["type"] == "tool_use":
                    yield Line("call", block["name"])

    return list(lines())


def two_were_launched(act: Act) -> str:
    """Two jobs were launched, of two agents, one for each call."""
    launched = [e.job_launched.agent for e in act.log if e.HasField("job_launched")]
    calls = act.calls("launch_job")
    return "" if sorted(launched) == ["gaps", "perfect"] and calls == 2 else f"{calls}: {launched}"


def jobs_are_at_home(act: Act) -> str:
    """Both belong to its thread, are in its session, and are all that it has."""
    launched = {
        e.thread_id: e.job_launched.parent_thread_id for e in act.log if e.HasField("job_launched")
    }
    listed = {job.job_id: job.parent_thread_id for job in act.jobs}
    sessions = {job.session_id for job in act.jobs}
    if launched == listed and set(listed.values()) == sessions == {act.thread_id}:
        return ""
    return f"{listed} instead of {launched}"


def talked_meanwhile(act: Act) -> str:
    """It talked of something else while both were RUNNING."""
    states = [RunState.Name(job.state) for job in act.meanwhile]
    return "" if states == ["RUN_STATE_RUNNING"] * 2 else str(states)


def redirected_in_flight(act: Act) -> str:
    """One was redirected once, while its run was RUNNING, which was SUPERSEDED."""
    updates = act.of_job("gaps", "job_updated")
    starts, ends = act.of_job("gaps", "run_started"), act.of_job("gaps", "run_finished")
    if len(updates) != 1 or not starts or not ends:
        return f"{len(updates)} updates, {len(starts)} starts, {len(ends)} ends"
    if ends[0].run_finished.state != RunState.RUN_STATE_SUPERSEDED:
        return f"its first run was {RunState.Name(ends[0].run_finished.state)}"
    in_flight = starts[0].sequence < updates[0].sequence < ends[0].sequence
    return "" if in_flight else "it was not at work"


def same_job_went_on(act: Act) -> str:
    """It stayed the same job, with a second run, which SUCCEEDED."""
    runs = [event.run_id for event in act.of_job("gaps", "run_created")]
    job, before = act.job("gaps"), {each.job_id for each in act.meanwhile}
    if len(runs) != 2 or job.run_id != runs[1] or job.job_id not in before:
        return f"runs {runs} of {job.job_id}"
    return "" if job.state == RunState.RUN_STATE_SUCCEEDED else RunState.Name(job.state)


def result_is_true(act: Act) -> str:
    """Its result is by the new instructions, and true: two primes, and none between."""
    result = text_of(act.job("gaps").outcome.result)
    below, above = _primes_of(result)
    if not ENOUGH <= above - below < ASKED:
        return result
    primes = [number for number in range(below, above + 1) if _is_prime(number)]
    return "" if primes == [below, above] else f"the primes there are {primes}"


def other_was_cancelled(act: Act) -> str:
    """The other was CANCELLED by its supervisor."""
    asked = [
        e.run_cancel_requested.by_parent for e in act.of_job("perfect", "run_cancel_requested")
    ]
    state = act.job("perfect").state
    if asked == [True] and state == RunState.RUN_STATE_CANCELLED:
        return ""
    return f"{RunState.Name(state)}, asked for {asked}"


def told_once(act: Act) -> str:
    """One notice was written, with the result: none of what was superseded or cancelled."""
    told = [event.notice_added.notice for event in act.log if event.HasField("notice_added")]
    found = [(notice.run_id, notice.outcome.result) for notice in told]
    job = act.job("gaps")
    if found != [(job.run_id, job.outcome.result)] or len(act.notices) != 1:
        return f"{len(found)} notices: {[notice.agent for notice in told]}"
    return ""


def notice_was_read(act: Act) -> str:
    """It was read, once, and nothing is left to read."""
    read = [each for event in act.log for each in event.notices_read.notice_ids]
    told = [notice.notice_id for notice in act.notices]
    return "" if read == told and all(notice.read for notice in act.notices) else f"read: {read}"


def model_was_told(act: Act) -> str:
    """The model was sent the notice once."""
    sent = [line.text for line in act.lines if line.who == "notice"]
    wanted = [notice.text for notice in act.notices]
    same = len(sent) == len(wanted) and all(map(_is_within, sent, wanted))
    return "" if same else f"{sent} instead of {wanted}"


def never_asked(act: Act) -> str:
    """It asked for nothing between launch and notice: no check_job, no list_jobs."""
    asked = [line.text for line in _until_notice(act) if line.who == "call"]
    polls = [name for name in asked if name in ("check_job", "list_jobs")]
    return f"it called {polls}" if polls else ""


def reported_unasked(act: Act) -> str:
    """Told of the result, it reported it, and nobody had to say anything."""
    after = act.lines[len(_until_notice(act)) :]
    said = " ".join(line.text for line in after if line.who == "assistant")
    asked = [line.text for line in after if line.who == "user"]
    primes = _primes_of(text_of(act.job("gaps").outcome.result))
    missing = [each for each in primes if str(each) not in said.replace(",", "")]
    return f"it said {said!r}" if asked or missing else ""


def log_has_no_holes(act: Act) -> str:
    """The log goes from 1 up by 1."""
    found = [event.sequence for event in act.log]
    return "" if found == list(range(1, len(found) + 1)) else str(found)


def was_killed_unanswered(act: Act) -> str:
    """It was killed by SIGKILL with two jobs launched and nothing said about them."""
    assert act.kill is not None
    code, left = act.kill.code, act.kill.lines
    if code != -signal.SIGKILL or len(act.kill.jobs) != 2:
        return f"exit code {code}, {len(act.kill.jobs)} jobs"
    after = left[left.index(Line("call", "launch_job")) :]
    said = [line.text for line in after if line.who == "assistant"]
    return f"it had said {said}" if said else ""


def nothing_was_lost(act: Act) -> str:
    """Started again it went on where it was: same conversation, same two jobs."""
    assert act.kill is not None
    before, after = ({job.job_id for job in jobs} for jobs in (act.kill.jobs, act.jobs))
    kept = act.lines[: len(act.kill.lines)]
    if before != after:
        return f"{after} instead of {before}"
    return "" if kept == act.kill.lines else f"{kept} instead of {act.kill.lines}"


def _until_notice(act: Act) -> Sequence[Line]:
    place = next((n for n, line in enumerate(act.lines) if line.who == "notice"), len(act.lines))
    return act.lines[:place]


def _is_within(sent: str, notice: str) -> bool:
    """Whether a text is a notice, with or without its tags."""
    return sent in (notice, notice.removeprefix("<notice>").removesuffix("</notice>"))


def _primes_of(result: str) -> tuple[int, int]:
    """Returns from where to where a gap is, which is nowhere if the result does not say."""
    match = re.search(r"from (\d+) to (\d+)", result)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % each for each in range(2, isqrt(number) + 1))


CHECKS: tuple[Check[Act], ...] = (
    two_were_launched,
    jobs_are_at_home,
    talked_meanwhile,
    redirected_in_flight,
    same_job_went_on,
    result_is_true,
    other_was_cancelled,
    never_asked,
    told_once,
    model_was_told,
    notice_was_read,
    reported_unasked,
    log_has_no_holes,
)
OF_KILLED: tuple[Check[Act], ...] = (was_killed_unanswered, nothing_was_lost)
"""Checks of a supervisor that was killed on the way."""
