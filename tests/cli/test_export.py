"""`callboard threads export`: a session as JSON lines."""

from __future__ import annotations

import uuid
from pathlib import Path

from callboard import archives
from callboard.v1.event_pb2 import Event
from tests.cli.conftest import Run


def launched(cli: Run, *arguments: str) -> str:
    job = cli("jobs", "launch", "count_words", "to be", "--wait", "--json", *arguments).objects[0]
    return str(job["job_id"])


def test_an_export_is_the_log_behind_a_header(cli: Run) -> None:
    job_id = launched(cli)
    result = cli("threads", "export", job_id)
    assert (result.code, result.err) == (0, "")
    header, *events = result.objects
    [state] = cli("threads", "get", job_id, "--json").objects
    assert header == {"format": "callboard.session", "version": 1, "session": state["thread"]}
    assert events == cli("events", job_id, "--session", "--json").objects
    archive = archives.read_lines(result.lines)
    assert [event.sequence for event in archive.events] == list(range(1, len(events) + 1))


def test_a_thread_below_is_exported_with_its_session(cli: Run) -> None:
    home = launched(cli)
    below = launched(cli, "--parent", home)
    fork = launched(cli, "--parent", home, "--fork")
    result = cli("threads", "export", below)
    assert result.objects == cli("threads", "export", home).objects
    archive = archives.read_lines(result.lines)
    assert archive.session.thread_id == home
    events: list[Event] = list(archive.events)
    assert {event.thread_id for event in events} == {home, below, fork}
    [forked] = [e.thread_created for e in events if e.thread_created.copied_from_thread_id]
    assert forked.copied_from_thread_id == home


def test_a_file_is_written_whole_and_never_over_another(cli: Run, tmp_path: Path) -> None:
    job_id = launched(cli)
    file = tmp_path / "job.jsonl"
    result = cli("threads", "export", job_id, "--out", str(file))
    lines = file.read_text("utf-8").splitlines()
    assert result.out == f"wrote {job_id} to {file}: {len(lines) - 1} events\n"
    assert lines == cli("threads", "export", job_id).lines
    again = cli("threads", "export", job_id, "--out", str(file))
    assert (again.code, again.err) == (1, f"error: {file} exists already; name a new file\n")
    other = tmp_path / "other.jsonl"
    [told] = cli("threads", "export", job_id, "--out", str(other), "--json").objects
    assert told == {"session_id": job_id, "events": len(lines) - 1, "file": str(other)}
    assert sorted(tmp_path.iterdir()) == [file, other]


def test_what_cannot_be_exported_leaves_no_file(cli: Run, tmp_path: Path) -> None:
    unknown = cli("threads", "export", str(uuid.uuid4()), "--out", str(tmp_path / "x.jsonl"))
    assert unknown.code == 4
    nowhere = cli("threads", "export", launched(cli), "--out", str(tmp_path / "no" / "x.jsonl"))
    assert nowhere.code == 1
    assert "x.jsonl cannot be written: No such file or directory" in nowhere.err
    assert list(tmp_path.iterdir()) == []
