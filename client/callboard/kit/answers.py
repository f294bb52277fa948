"""What the tools tell a model: short JSON about jobs, and notes on what to make of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from callboard._messages import text_of
from callboard._states import TERMINAL_STATES
from callboard.errors import CallboardError
from callboard.kit.dialects import Dialect
from callboard.kit.known import Sighting
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.message_pb2 import Message

LISTED = 50
"""How many jobs one answer lists."""
_NAMED = 20
"""How many jobs a refusal names."""
_GIST = 300
"""How much of a task an answer repeats, in characters."""
_ALIKE_FROM = 4
"""How many characters of a shortened id are enough to tell which was meant."""


class ToolAnswer(str):
    """What a tool tells a model. It is a text, and knows whether it tells of a failure.

    Attributes:
        is_error: Whether the call could not be carried out, as a tool result says in some formats.
    """

    is_error: bool

    def __new__(cls, text: str, *, is_error: bool = False) -> ToolAnswer:
        """Makes an answer of a text."""
        answer = super().__new__(cls, text)
        answer.is_error = is_error
        return answer


class Answers:
    """Writes answers in the words of a dialect."""

    def __init__(self, dialect: Dialect, result_characters: int) -> None:
        self._words = dialect
        self._result_characters = result_characters

    def launched(self, job: Job) -> str:
        """A job that was launched just now."""
        note = (
            f"It works in the background. Do not call {self._words.check} now: say what was "
            "handed over, and go on."
        )
        return _json({**self._brief(job), "note": note})

    def checked(self, job: Job, offset: int) -> str:
        """A job as it stands, its result from a character on."""
        return _json({**self._whole(job, offset), **_noted(self._advice(job))})

    def updated(self, before: Job, job: Job, delivery: str) -> str:
        """A job that got new instructions, how it stood before, and how they were delivered."""
        note = ""
        if before.state == RunState.RUN_STATE_CANCELLED:
            note = "It had been cancelled, and works again."
        elif before.state in TERMINAL_STATES:
            note = f"It had ended as {self._state(before)}, and works again."
        elif before.state == RunState.RUN_STATE_REQUIRES_ACTION:
            left = "withdrawn" if delivery == "interrupt" else "still open"
            note = f"What it had asked for is {left}."
        return _json({**self._brief(job), **_noted(note)})

    def cancelled(self, before: Job, job: Job) -> str:
        """A job that was cancelled, and how it stood before."""
        note = "" if job.state in TERMINAL_STATES else "It is being stopped."
        if before.state in TERMINAL_STATES:
            note = f"It had ended before as {self._state(before)}, so there was nothing to cancel."
        return _json({**self._brief(job), **_noted(note)})

    def listed(self, jobs: Sequence[Job], offset: int) -> str:
        """Jobs, which come newest first. What was launched first stands first."""
        shown = jobs[offset : offset + LISTED]
        rest = len(jobs) - offset - len(shown)
        note = ""
        if rest > 0:
            note = f"{rest} older ones are left out: call this with offset {offset + len(shown)}."
        entries = [self._brief(job) for job in reversed(shown)]
        return _json({"jobs": entries, "count": len(jobs), **_noted(note)})

    def stale(self, seen: Sighting) -> str:
        """A job as it stood when the server answered last."""
        return _json({**self._whole(seen.job, 0), **_stale(seen)})

    def stale_list(self, sightings: Sequence[Sighting]) -> str:
        """Jobs as they stood when the server answered last."""
        entries = [{**self._brief(seen.job), **_age(seen)} for seen in sightings[-LISTED:]]
        return _json({"jobs": entries, "stale": True, "note": _STALE})

    def unknown(self, job_id: str, jobs: Sequence[Job]) -> str:
        """Says that there is no such job, and which was meant or which there are.

        Args:
            job_id: The id as the model wrote it.
            jobs: The jobs of the supervisor, newest first.
        """
        there_is_none = f"There is no job {job_id[:80]!r} here"
        meant = _meant(job_id, [job.job_id for job in jobs])
        if meant:
            return f"{there_is_none}; did you mean {meant}? Write ids whole, as they were returned."
        if not jobs:
            return f"{there_is_none}; there are none at all yet. {self._words.launch} starts one."
        named = "\n".join(f"- {j.job_id} ({j.agent}, {self._state(j)})" for j in jobs[:_NAMED])
        more = f"\n{self._words.list} has the rest." if len(jobs) > _NAMED else ""
        return f"{there_is_none}. The jobs, newest first:\n{named}{more}"

    def no_agent(self, agent: str, error: CallboardError, agents: Iterable[str]) -> str:
        """Says that an agent is gone from the server, and which of the supervisor's are not."""
        there = {name.strip() for name in error.metadata.get("agents", "").split(",")}
        left = [name for name in agents if name in there]
        others = f"Of yours there are: {', '.join(left)}." if left else "None of yours is left."
        return f"The server has no agent {agent!r} any more. {others}"

    def _brief(self, job: Job) -> dict[str, object]:
        brief: dict[str, object] = {
            self._words.job_id: job.job_id,
            "agent": job.agent,
            "task": _gist(job.task),
            self._words.state: self._state(job),
        }
        if job.HasField("progress") and job.state not in TERMINAL_STATES:
            brief["progress"] = _progress(job)
        return brief

    def _whole(self, job: Job, offset: int) -> dict[str, object]:
        whole = self._brief(job)
        if job.outcome.HasField("error"):
            whole["error"] = job.outcome.error.message
        if job.outcome.HasField("result"):
            whole.update(self._result(job.outcome.result, offset))
        return whole

    def _result(self, message: Message, offset: int) -> dict[str, object]:
        text = text_of(message)
        part = text[offset : offset + self._result_characters]
        result: dict[str, object] = {"result": part}
        if len(part) < len(text):
            end = offset + len(part)
            told = f"Characters {offset} to {end} of {len(text)}."
            if end < len(text):
                told += f" Call {self._words.check} with offset {end} for what follows."
            result["result_cut"] = told
        others = [kind for kind in _kinds(message) if kind in ("image", "file")]
        if others:
            result["result_also_has"] = others
        return result

    def _advice(self, job: Job) -> str:
        if job.state == RunState.RUN_STATE_REQUIRES_ACTION:
            return "It waits for an answer from outside, which you cannot give: say so."
        if job.state not in TERMINAL_STATES:
            return "It is not finished. Do not check again now, and do not guess its result."
        return ""

    def _state(self, job: Job) -> str:
        return self._words.states.get(job.state, "UNKNOWN")


_STALE = (
    "The server does not answer. This is what was last known and may be out of date; "
    "say so, and try again later."
)
_UNSEEN = "Its result, if it has one, was not fetched before."


def _stale(seen: Sighting) -> dict[str, object]:
    note = _STALE if seen.is_whole else f"{_STALE} {_UNSEEN}"
    return {"stale": True, **_age(seen), "note": note}


def _age(seen: Sighting) -> dict[str, object]:
    return {"seen_seconds_ago": round(seen.age)}


def _noted(note: str) -> Mapping[str, str]:
    return {"note": note} if note else {}


def _progress(job: Job) -> str:
    progress = job.progress
    if not progress.total:
        return progress.message
    return f"{progress.message} ({progress.current} of {progress.total})".strip()


def _kinds(message: Message) -> list[str]:
    return [block.WhichOneof("block") or "" for block in message.content]


def _gist(text: str) -> str:
    return text if len(text) <= _GIST else f"{text[:_GIST]}..."


def _meant(written: str, job_ids: Sequence[str]) -> str:
    """The one id that a shortened or misspelt one stands for; empty where it is not clear."""
    bare = written.strip(" \t\n.\u2026'\"`<>*").lower()
    if len(bare) < _ALIKE_FROM:
        return ""
    alike = [job_id for job_id in job_ids if job_id.startswith(bare)]
    alike = alike or get_close_matches(bare, job_ids, n=2, cutoff=0.9)
    return alike[0] if len(alike) == 1 else ""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
