"""Holds what clients saw, and what agents did, against the log."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import callboard
from callboard import Event
from callboard.v1.event_pb2 import RunQueued
from callboard_server.store.sqlite import admin
from tests.robustness import validators
from tests.robustness.history import History, Reading
from tests.robustness.telling import told_of_ends
from tests.robustness.validators import Effect
from tests.support.serving import log_of


@dataclass
class Verdict:
    """What was checked and what was found."""

    kills: int = 0
    events: int = 0
    rescued: int = 0
    """How often a run was put back in line because its server was gone."""
    moments: Counter[str] = field(default_factory=Counter)
    """How often a server was killed at each fault point, and at random."""
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """What goes against any other guarantee."""

    @property
    def problems(self) -> list[str]:
        return self.lost + self.doubled + self.broken

    def add(self, other: Verdict) -> None:
        self.kills += other.kills
        self.events += other.events
        self.rescued += other.rescued
        self.moments += other.moments
        self.lost += other.lost
        self.doubled += other.doubled
        self.broken += other.broken

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.events} events checked, "
            f"{len(self.lost)} lost, {len(self.doubled)} doubled"
        )


async def all_logs(client: callboard.AsyncClient) -> dict[str, list[Event]]:
    """The logs of all sessions."""
    roots = [thread.thread_id async for thread in client.threads.list()]
    return {root: await log_of(client, root) for root in roots}


def traces(db: Path) -> list[Effect]:
    """What agents did outside of the log of a database."""
    found = []
    for file in sorted(db.with_suffix(".workspaces").glob("*/traces")):
        found += [Effect(*json.loads(line)) for line in file.read_text("utf-8").splitlines()]
    return found


def check(
    logs: dict[str, list[Event]], history: History, effects: Iterable[Effect], db: Path
) -> Verdict:
    """Checks every guarantee that what is known can show.

    Args:
        logs: The log of every session, in which all is over.
        history: What clients saw.
        effects: What agents did outside of the log.
        db: The database, which no server uses any more.
    """
    verdict = Verdict(events=sum(map(len, logs.values())))
    for session, log in logs.items():
        _check_log(verdict, log)
        verdict.broken += [f"session {session}: {problem}" for problem in _doubts(log)]
    by_thread = {event.thread_id: log for log in logs.values() for event in log}
    everything = [event for log in logs.values() for event in log]
    verdict.rescued = sum(e.run_queued.reason == RunQueued.REASON_RESCUED for e in everything)
    verdict.doubled += validators.done_once(everything, effects)
    verdict.doubled += validators.taken_once(logs.values())
    verdict.lost += validators.acknowledged(logs.values(), history.inputs)
    verdict.broken += validators.left_out(logs.values(), history.refused, history.forgotten)
    for reading in history.readings:
        _check_reading(verdict, by_thread.get(reading.thread_id, []), reading)
    for jobs in history.watched:
        verdict.broken += validators.jobs_in_order(jobs)
    for thread_id, sequence in history.sequences.items():
        if sequence > len(by_thread.get(thread_id, ())):
            verdict.lost.append(f"thread {thread_id} was said to be at {sequence}")
    verdict.broken += admin.check(str(db))
    return verdict


def _check_log(verdict: Verdict, log: Sequence[Event]) -> None:
    verdict.lost += validators.without_holes(log)
    verdict.doubled += [*validators.started_once(log), *validators.asked_once(log)]
    verdict.doubled += validators.told_once(log)
    verdict.lost += told_of_ends(log)


def _doubts(log: Sequence[Event]) -> list[str]:
    return [*validators.terminal_last(log), *validators.fenced(log), *validators.atomic(log)]


def _check_reading(verdict: Verdict, log: Sequence[Event], reading: Reading) -> None:
    matches = reading.matches
    for cursor, frames in reading.connections():
        seen = validators.events_of(frames)
        deltas = [delta for frame in frames for delta in frame.deltas]
        verdict.broken += validators.bookmarkable(log, frames, after=cursor, matches=matches)
        _check_events(verdict, log, seen)
        verdict.broken += [*validators.gapless(deltas), *validators.replaced(log, deltas)]
    verdict.lost += validators.resumable(log, reading.frames, matches=matches)
    if not reading.frames:
        _check_events(verdict, log, reading.events)
        through = reading.cursor
        verdict.lost += validators.reliable(log, reading.events, through=through, matches=matches)
        deltas = reading.deltas
        verdict.broken += [*validators.gapless(deltas), *validators.replaced(log, deltas)]


def _check_events(verdict: Verdict, log: Sequence[Event], seen: Sequence[Event]) -> None:
    verdict.broken += validators.ordered(seen)
    verdict.doubled += validators.unique(seen)
    verdict.lost += validators.durable(log, seen)
