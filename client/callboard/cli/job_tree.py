"""Jobs as a tree: each below the one that launched it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from callboard import Job, RunState
from callboard.cli.gists import short
from callboard.cli.job_views import job_now, running_time, tokens_gist, tokens_words, total_usage
from callboard.cli.states import state_text, state_word
from callboard.cli.tables import Rows
from callboard.cli.waits import Asked

_WIDE = 120
"""From how many columns on there is room for whole ids."""
_BY_URGENCY = (
    RunState.RUN_STATE_REQUIRES_ACTION,
    RunState.RUN_STATE_RUNNING,
    RunState.RUN_STATE_WAITING,
    RunState.RUN_STATE_QUEUED,
    RunState.RUN_STATE_FAILED,
    RunState.RUN_STATE_TIMED_OUT,
    RunState.RUN_STATE_SUCCEEDED,
    RunState.RUN_STATE_CANCELLED,
    RunState.RUN_STATE_SUPERSEDED,
)
"""The states, first those that are shown where there is not room for all."""
_URGENCY = {state: rank for rank, state in enumerate(_BY_URGENCY)}


class Line(NamedTuple):
    """A line of a tree: a job, or a thread that is none."""

    branch: str
    node_id: str
    job: Job | None


class JobTree:
    """Jobs, each below the one that launched it, or else below its thread."""

    def __init__(self, jobs: Iterable[Job], root_id: str = "") -> None:
        """Puts jobs in their places.

        Args:
            jobs: The jobs, in the order in which they are to stand.
            root_id: The job that the tree is about, which stands below nothing.
        """
        self._jobs: dict[str, Job] = {job.job_id: job for job in jobs}
        self._parents = {
            job.job_id: job.parent_thread_id
            for job in self._jobs.values()
            if job.parent_thread_id and job.job_id != root_id
        }

    @property
    def jobs(self) -> Collection[Job]:
        """The jobs of the tree."""
        return self._jobs.values()

    def lines(self, room: int | None = None) -> list[Line]:
        """The lines of the tree: all, or the most urgent of them and what they stand below.

        Args:
            room: How many lines there may be.
        """
        chosen = self._most_urgent(room) if room is not None else None
        below: dict[str, list[str]] = {"": []}
        for job_id in self._jobs:
            if chosen is None or job_id in chosen:
                self._hang_up(below, job_id)
        return list(self._lines_below(below, "", None))

    def _hang_up(self, below: dict[str, list[str]], node_id: str) -> None:
        parent_id = self._parents.get(node_id, "")
        if parent_id not in below and parent_id not in self._jobs:
            self._hang_up(below, parent_id)
        below.setdefault(parent_id, []).append(node_id)
        below.setdefault(node_id, [])

    def _lines_below(
        self, below: Mapping[str, Sequence[str]], parent_id: str, indent: str | None
    ) -> Iterator[Line]:
        node_ids = below[parent_id]
        for node_id in node_ids:
            is_last = node_id == node_ids[-1]
            if indent is None:
                branch, deeper = "", ""
            else:
                branch = indent + ("└ " if is_last else "├ ")
                deeper = indent + ("  " if is_last else "│ ")
            yield Line(branch, node_id, self._jobs.get(node_id))
            yield from self._lines_below(below, node_id, deeper)

    def _most_urgent(self, room: int) -> set[str]:
        """The ids of jobs, and of all above them, that fit on so many lines."""
        chosen: set[str] = set()
        for job in sorted(self._jobs.values(), key=_urgency):
            path = [node_id for node_id in self._upwards(job.job_id) if node_id not in chosen]
            if len(chosen) + len(path) <= room:
                chosen.update(path)
        return chosen

    def _upwards(self, node_id: str) -> Iterator[str]:
        """A job and what is above it, threads included."""
        while node_id:
            yield node_id
            node_id = self._parents.get(node_id, "")


class TreeTable:
    """A tree with a line for each job, and one for all of them."""

    def __init__(
        self, tree: JobTree, asked: Asked, *, fits_screen: bool = False, note: str = ""
    ) -> None:
        """Shows a tree.

        Args:
            tree: The tree.
            asked: What its jobs wait to be answered.
            fits_screen: Whether to sum up what does not fit on the screen.
            note: What there is to say of all of it, in a line below.
        """
        self._tree = tree
        self._asked = asked
        self._fits_screen = fits_screen
        self._note = note

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lays the lines out on a screen of a certain size."""
        jobs = self._tree.jobs
        lines = self._tree.lines()
        # Beside the jobs, there are the names of the columns, two sums, the note and the cursor.
        room = max(1, console.size.height - 4 - bool(self._note))
        if self._fits_screen and len(lines) > room:
            lines = self._tree.lines(room)
        if lines:
            yield self._table(lines, whole_ids=options.max_width >= _WIDE)
        shown = {line.node_id for line in lines}
        hidden = [job for job in jobs if job.job_id not in shown]
        if hidden:
            yield _line_of(f"… {len(hidden)} more: {_counted(hidden)}")
        if len(jobs) > 1:
            yield _line_of(_summed_up(jobs))
        if self._note:
            yield _line_of(self._note, "yellow")

    def _table(self, lines: Sequence[Line], *, whole_ids: bool) -> Rows:
        tokens = ["tokens"] if any(tokens_gist(job.usage) for job in self._tree.jobs) else []
        table = Rows("job", "state", "agent", "time", *tokens, "now")
        for branch, node_id, job in lines:
            name = Text.assemble((branch, "dim"), node_id if whole_ids else short(node_id))
            if job is None:
                table.add(name, Text("thread", style="dim"), "", "", *([""] if tokens else []), "")
                continue
            used = [tokens_gist(job.usage)] if tokens else []
            now = job_now(job, self._asked)
            table.add(name, state_text(job.state), job.agent, running_time(job), *used, now)
        return table


def _line_of(text: str, style: str = "dim") -> Text:
    # On a line, for it was counted as one.
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _summed_up(jobs: Collection[Job]) -> str:
    used = tokens_words(total_usage(jobs))
    return f"{len(jobs)} jobs: {_counted(jobs)}" + (f" · tokens: {used}" if used else "")


def _counted(jobs: Iterable[Job]) -> str:
    """How many jobs there are in each state."""
    counts = Counter(job.state for job in sorted(jobs, key=_urgency))
    return ", ".join(f"{count} {state_word(state)}" for state, count in counts.items())


def _urgency(job: Job) -> int:
    return _URGENCY.get(job.state, len(_URGENCY))
