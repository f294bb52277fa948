"""The demo of supervisors, its checks, and the program outside on its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

import supervisor
from callboard import AsyncSupervisor, Event, Job, RunState
from callboard_server import Context
from cast import PROVIDERS
from standins import anthropic
from standins.http import serving
from standins.replies import Reply
from supervisor import CLAUDE, GPT, choose_models, until_read
from supervisor_checks import CHECKS, OF_KILLED, Act, Line, check_act, kept_lines
from supervisor_players import PROGRAM, Outside
from supervisor_standins import supervising
from tests.docs.markdown import ROOT
from tests.examples.demos import demonstrate, keyless
from tests.support.gates import PATIENCE
from tests.support.programs import python, run
from tests.support.serving import Served, served

pytestmark = pytest.mark.timeout(180)

Change = Callable[[Act], Act]
DEMO = "supervisor.py"
ALL = [*CHECKS, *OF_KILLED]
PASSED = (
    f"hosted supervisor: {len(CHECKS)} checks passed\n",
    f"outside supervisor: {len(ALL)} checks passed\n",
)


@pytest.fixture(scope="module")
def played() -> Iterator[tuple[Sequence[Act], str]]:
    """What happened without a key, and what was told of it meanwhile."""
    printed = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        for name in set(os.environ) - set(keyless()):
            patch.delenv(name)
        patch.setattr(sys, "executable", python())
        acts = asyncio.run(supervisor.run())
    yield acts, printed.getvalue()


@pytest.fixture
def act(played: tuple[Sequence[Act], str]) -> Act:
    """What happened with the program."""
    return played[0][1]


def test_without_keys_a_stand_in_answers_and_it_says_so(
    played: tuple[Sequence[Act], str], capsys: pytest.CaptureFixture[str]
) -> None:
    acts, printed = played
    assert "ANTHROPIC_API_KEY is not set: in the place of Anthropic a stand-in answers" in printed
    assert printed.count("I stand in for Anthropic and am no language model") == 2
    for act, passed in zip(acts, PASSED, strict=True):
        assert check_act(act) == 0
        assert capsys.readouterr().out.endswith(passed)


async def test_a_provider_whose_key_is_set_is_called() -> None:
    may_answer = asyncio.Event()
    may_answer.set()
    script = supervising("Somebody", may_answer)
    async with serving(anthropic.scripted(script)) as server:
        code, printed = await demonstrate(
            DEMO,
            ANTHROPIC_API_KEY="sk-1",
            ANTHROPIC_BASE_URL=server.url,
            CALLBOARD_MODEL="anthropic:x",
        )
        asked = {(each.headers["authorization"], each.body["model"]) for each in server.requests}
        assert asked == {("Bearer sk-1", "x")}
    assert "ANTHROPIC_API_KEY is set: anthropic:x is called at Anthropic." in printed
    assert "a stand-in answers" not in printed
    assert PASSED[0] in printed
    # It may be faster than the one that kills.
    was_late = "nothing said about them. not seen" in printed
    assert printed.endswith(f"outside supervisor: {len(ALL) - was_late} checks passed\n")
    assert code == 0


async def test_a_key_that_is_refused_ends_it() -> None:
    refusing = anthropic.refusing(401, "authentication_error", "SECRET")
    async with serving(refusing) as server:
        code, printed = await demonstrate(
            DEMO, ANTHROPIC_API_KEY="sk-1", ANTHROPIC_BASE_URL=server.url
        )
    assert "supervisor did not answer: anthropic:" in printed
    assert "SECRET" not in printed
    assert "Traceback" not in printed
    assert code == 1


async def test_a_key_that_the_program_is_refused_ends_it_too() -> None:
    refusing = anthropic.refusing(401, "authentication_error")
    async with serving(refusing) as server:
        code, printed = await demonstrate(
            DEMO,
            ANTHROPIC_API_KEY="sk-1",
            ANTHROPIC_BASE_URL=server.url,
            CALLBOARD_MODEL="openai:x",
        )
    assert "I stand in for OpenAI and am no language model" in printed
    assert "outside_supervisor.py ended: anthropic.AuthenticationError:" in printed
    assert "Traceback" not in printed
    assert code == 1


@pytest.mark.parametrize(
    ("keys", "chosen", "models"),
    [
        ([], "", (CLAUDE, CLAUDE)),
        (["openai"], "", (GPT, CLAUDE)),
        (["anthropic"], "", (CLAUDE, CLAUDE)),
        (["anthropic", "openai"], "", (CLAUDE, CLAUDE)),
        (["anthropic"], "anthropic:x", ("anthropic:x", "anthropic:x")),
        (["anthropic"], "openai:x", ("openai:x", CLAUDE)),
    ],
)
def test_which_model_answers(
    keys: list[str], chosen: str, models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, provider in PROVIDERS.items():
        monkeypatch.setenv(provider.key, "sk-1" if name in keys else "")
    monkeypatch.setenv("CALLBOARD_MODEL", chosen)
    assert choose_models() == models


def test_the_page_shows_its_last_line() -> None:
    page = (ROOT / "docs" / "supervisors.md").read_text("utf-8")
    assert f"\n{PASSED[1]}" in page


def test_make_runs_it() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    _, _, rest = makefile.partition("\ndemo-supervisor: .venv/.server")
    assert rest.splitlines()[1] == "\t@$(BIN)/python examples/supervisor.py"


# The program outside


async def quick(ctx: Context) -> str:
    return f"done: {await ctx.input()}"


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    monkeypatch.setattr(sys, "executable", python())
    async with served([quick], tmp_path / "jobs.db") as server:
        yield server


@pytest.fixture
async def home(running: Served) -> AsyncSupervisor:
    return await running.client.supervisor("my-app/user-42")


def program(running: Served, home: AsyncSupervisor, file: Path, model_url: str) -> Outside:
    variables = {"ANTHROPIC_API_KEY": "key", "ANTHROPIC_BASE_URL": model_url}
    address = f"127.0.0.1:{running.port}"
    return Outside(address, home, file, "anthropic:x", ["quick"], variables)


def keep(file: Path, *messages: tuple[str, object], notice_id: str = "") -> None:
    """Adds to the conversation as the program does."""
    with file.open("a") as kept:
        for role, content in messages:
            message = {"role": role, "content": content}
            kept.write(json.dumps({"notice_id": notice_id, "message": message}) + "\n")


async def test_a_call_whose_answer_it_did_not_live_to_see_is_made_again_and_counts_once(
    running: Served, home: AsyncSupervisor, tmp_path: Path
) -> None:
    arguments = {"agent": "quick", "task": "one"}
    call = {"type": "tool_use", "id": "call_1", "name": "launch_job", "input": arguments}
    await home.tools.call("launch_job", arguments, call_id="call_1")
    file = tmp_path / "conversation.jsonl"
    keep(file, ("user", "Do one."), ("assistant", [call]))
    async with serving(anthropic.scripted(lambda body: Reply("It is at work."))) as model:
        outside = program(running, home, file, model.url)
        try:
            async with asyncio.timeout(6 * PATIENCE):
                await outside.start()
                await until_read(running.client, home.thread_id)
                await outside.end()
        finally:
            await outside.clean_up()
        [job] = [job async for job in running.client.jobs.list()]
        assert job.job_id in json.dumps(model.requests[0].body["messages"][-1])
    assert Line("assistant", "It is at work.") in kept_lines(file)


async def test_a_notice_that_it_heard_before_it_was_killed_is_not_heard_again(
    running: Served, home: AsyncSupervisor, tmp_path: Path
) -> None:
    for task in "one", "two":
        job = json.loads(await home.tools.call("launch_job", {"agent": "quick", "task": task}))
        await running.client.jobs.wait(job["job_id"])
    first, second = [each async for each in running.client.notices.list(home.thread_id)]
    file = tmp_path / "conversation.jsonl"
    keep(file, ("user", first.text), notice_id=first.notice_id)
    keep(file, ("assistant", [{"type": "text", "text": "One is done."}]))
    async with serving(anthropic.scripted(lambda body: Reply("So is two."))) as model:
        outside = program(running, home, file, model.url)
        try:
            async with asyncio.timeout(6 * PATIENCE):
                await outside.start()
                await until_unread(running, home, 0)
                await outside.end()
        finally:
            await outside.clean_up()
        [request] = model.requests
    heard = [each["content"] for each in request.body["messages"] if each["role"] == "user"]
    assert heard == [first.text, second.text]


async def until_unread(running: Served, home: AsyncSupervisor, count: int) -> None:
    """Waits until so many notices are left to read."""
    stream = running.client.threads.stream(home.thread_id, kinds=["notices_read"], after_sequence=0)
    async with stream as events:
        async for _ in events:
            if (await running.client.threads.get(home.thread_id)).unread_notice_count == count:
                return


async def test_a_model_that_fails_when_it_is_told_ends_it(
    running: Served, home: AsyncSupervisor, tmp_path: Path
) -> None:
    await home.tools.call("launch_job", {"agent": "quick", "task": "one"})
    async with serving(anthropic.refusing(401, "authentication_error")) as model:
        outside = program(running, home, tmp_path / "conversation.jsonl", model.url)
        try:
            async with asyncio.timeout(6 * PATIENCE):
                await outside.start()
                with pytest.raises(SystemExit, match=r"ended: anthropic\.AuthenticationError"):
                    await outside.report()
        finally:
            await outside.clean_up()
    assert (await running.client.threads.get(home.thread_id)).unread_notice_count == 1


def test_it_says_what_it_needs() -> None:
    code, printed = run(PROGRAM, "127.0.0.1:50051", timeout=PATIENCE)
    assert "python outside_supervisor.py ADDRESS NAME FILE MODEL [AGENT ...]" in printed
    assert code == 1


# The checks themselves


def with_job(agent: str, change: Callable[[Job], object]) -> Change:
    def doctor(act: Act) -> Act:
        jobs = [Job.FromString(job.SerializeToString()) for job in act.jobs]
        change(next(job for job in jobs if job.agent == agent))
        return replace(act, jobs=jobs)

    return doctor


def with_events(kind: str, change: Callable[[Event], object]) -> Change:
    """Changes the first event of a kind."""

    def doctor(act: Act) -> Act:
        log = [Event.FromString(event.SerializeToString()) for event in act.log]
        change(next(event for event in log if event.WhichOneof("payload") == kind))
        return replace(act, log=log)

    return doctor


def without(kind: str) -> Change:
    def doctor(act: Act) -> Act:
        kept = [event for event in act.log if event.WhichOneof("payload") != kind]
        return replace(act, log=kept)

    return doctor


def twice(kind: str) -> Change:
    def doctor(act: Act) -> Act:
        again = [event for event in act.log if event.WhichOneof("payload") == kind]
        return replace(act, log=[*act.log, *again])

    return doctor


def with_line(place: int, who: str, text: str) -> Change:
    def doctor(act: Act) -> Act:
        lines = [*act.lines]
        lines.insert(place, Line(who, text))
        return replace(act, lines=lines)

    return doctor


def with_kill(**changes: Any) -> Change:
    def doctor(act: Act) -> Act:
        assert act.kill is not None
        return replace(act, kill=replace(act.kill, **changes))

    return doctor


def test_what_nobody_held_back_may_come_before_the_kill(
    act: Act, capsys: pytest.CaptureFixture[str]
) -> None:
    early = say_before_kill(act)
    assert check_act(early) == 1
    assert check_act(with_kill(was_held=False)(early)) == 0
    assert capsys.readouterr().out.endswith(f"{len(ALL) - 1} checks passed\n")


def say_before_kill(act: Act) -> Act:
    assert act.kill is not None
    answered = next(n for n, line in enumerate(act.lines) if line.who == "assistant")
    return with_kill(lines=act.lines[: answered + 1])(act)


def finds(text: str) -> Change:
    """Exchanges the result."""

    def change(job: Job) -> None:
        job.outcome.result.content[0].text.text = text

    return with_job("gaps", change)


DOCTORED: list[tuple[str, Change]] = [
    ("two_were_launched", with_line(0, "call", "launch_job")),
    ("two_were_launched", twice("job_launched")),
    ("jobs_are_at_home", with_job("gaps", lambda job: job.ClearField("parent_thread_id"))),
    ("jobs_are_at_home", lambda act: replace(act, jobs=act.jobs[:1])),
    ("talked_meanwhile", lambda act: replace(act, meanwhile=act.jobs)),
    ("redirected_in_flight", without("job_updated")),
    ("redirected_in_flight", with_events("job_updated", lambda e: setattr(e, "sequence", 1))),
    ("redirected_in_flight", lambda act: replace(act, log=[*map(as_failed, act.log)])),
    ("same_job_went_on", with_job("gaps", lambda job: job.ClearField("run_id"))),
    ("same_job_went_on", with_job("gaps", lambda job: job.ClearField("state"))),
    ("result_is_true", finds("The first gap is 14, from 113 to 127.")),
    ("result_is_true", finds("There is none.")),
    ("result_is_true", finds("The first gap is 124, from 370261 to 370385.")),
    ("other_was_cancelled", without("run_cancel_requested")),
    ("other_was_cancelled", with_job("perfect", lambda job: job.ClearField("state"))),
    ("never_asked", with_line(3, "call", "check_job")),
    ("told_once", twice("notice_added")),
    ("told_once", without("notice_added")),
    ("model_was_told", with_line(99, "notice", "<notice>It is done.</notice>")),
    ("notice_was_read", without("notices_read")),
    ("notice_was_read", twice("notices_read")),
    ("reported_unasked", with_line(99, "user", "And?")),
    ("reported_unasked", lambda act: replace(act, lines=act.lines[:-1])),
    ("log_has_no_holes", lambda act: replace(act, log=[act.log[0], *act.log[2:]])),
    ("was_killed_unanswered", with_kill(code=0)),
    ("was_killed_unanswered", say_before_kill),
    ("nothing_was_lost", with_kill(jobs=[Job(job_id="another"), Job()])),
    ("nothing_was_lost", with_kill(lines=[Line("user", "?"), Line("call", "launch_job")])),
]


def as_failed(event: Event) -> Event:
    changed = Event.FromString(event.SerializeToString())
    if changed.HasField("run_finished"):
        changed.run_finished.state = RunState.RUN_STATE_FAILED
    return changed


@pytest.mark.parametrize(
    ("name", "change"), DOCTORED, ids=[f"{n}-{name}" for n, (name, _) in enumerate(DOCTORED)]
)
def test_each_check_finds_its_fault(name: str, change: Change, act: Act) -> None:
    changed = change(act)
    assert [check.__name__ for check in ALL if check(act)] == []
    assert name in [check.__name__ for check in ALL if check(changed)]
