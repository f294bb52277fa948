"""Archives: what is written is read again, and comes to the same."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from callboard import archives, to_dict
from callboard.structs import to_struct
from callboard.v1.event_pb2 import Event
from callboard.v1.thread_pb2 import Thread
from callboard_server.agents.context import Context
from callboard_server.log.fold import ThreadFold
from tests.support.serving import local, log_of

KINDS = [field.name for field in Event.DESCRIPTOR.oneofs_by_name["payload"].fields]


def written(session: Thread, *events: Event) -> str:
    lines = [archives.header_line(session), *map(archives.event_line, events)]
    return "".join(lines)


def event(sequence: int, kind: str) -> Event:
    made = Event(sequence=sequence, run_id="r", claim_epoch=2**60, step_path=["a#1"])
    made.time.FromNanoseconds(1_700_000_000_123_456_789)
    getattr(made, kind).SetInParent()
    return made


def test_events_of_every_kind_are_read_as_they_were_written() -> None:
    events = [event(number, kind) for number, kind in enumerate(KINDS, 1)]
    events[0].thread_created.metadata.CopyFrom(to_struct({"n": 0.1, "ü\n\u2028": [None, {}]}))
    session = Thread(thread_id="t", head_sequence=len(events))
    text = written(session, *events)
    archive = archives.read_lines(io.StringIO(text))
    assert archive.session == session
    assert list(archive.events) == events
    assert text.endswith("\n")
    header, first, *_ = map(json.loads, text.split("\n")[:-1])
    assert (header["format"], header["version"]) == ("callboard.session", 1)
    assert (first["sequence"], "thread_created" in first) == ("1", True)


def test_what_a_newer_server_wrote_is_skipped() -> None:
    line = {**json.loads(archives.event_line(event(1, "thread_idle"))), "mood": "sunny"}
    lines = [archives.header_line(Thread()), json.dumps(line)]
    assert list(archives.read_lines(lines).events) == [event(1, "thread_idle")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: no JSON"),
        ("hello\n", "line 1: no JSON"),
        ("[]\n", "line 1: no JSON object"),
        ('{"format": "other"}\n', "line 1: no archive of a session"),
        ('{"format": "callboard.session", "version": 2}\n', "line 1: version 2 is not known"),
        (written(Thread()) + "{\n", "line 2: no JSON"),
        (written(Thread()) + '{"sequence": "one"}\n', "line 2: "),
    ],
)
def test_what_is_no_archive_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        list(archives.read_lines(io.StringIO(text)).events)


async def worker(ctx: Context) -> str:
    """Works with values, steps and events."""
    await ctx.merge_values({"seen": {"by": "worker"}, "gone": None})
    await ctx.emit("tick", {"n": 1})
    await ctx.step("think", lambda: 42)
    return "done: " + await ctx.input()


async def test_an_archive_comes_to_what_the_session_was(tmp_path: Path) -> None:
    async with local([worker], tmp_path / "jobs.db") as client:
        home = await client.threads.create("hello", values={"gone": 1, "n": 0.1})
        run = await client.runs.create("worker", "go", thread_id=home.thread_id)
        await client.runs.wait(run.run_id)
        job = await client.jobs.launch(
            "worker", "task", parent_thread_id=home.thread_id, notify="none"
        )
        await client.jobs.wait(job.job_id)
        session = await client.threads.get(home.thread_id)
        text = written(session, *await log_of(client, home.thread_id))
        states = {
            thread_id: await client.threads.state(thread_id)
            for thread_id in (home.thread_id, job.job_id)
        }
    folds: dict[str, ThreadFold] = {}
    archive = archives.read_lines(io.StringIO(text))
    for each in archive.events:
        folds.setdefault(each.thread_id, ThreadFold()).apply(each)
    assert archive.session == session
    assert folds.keys() == states.keys()
    for thread_id, fold in folds.items():
        state = states[thread_id]
        expected: Any = list(state.messages), to_dict(state.values), list(state.pending_actions)
        assert (fold.messages, to_dict(fold.values), list(fold.actions.values())) == expected
