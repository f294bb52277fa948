"""Two supervisors: one on the server, and one in a program of its own that is killed on the way.

Starts a server of its own on a new SQLite file, with the agents of supervisor.toml. Each supervisor
launches two jobs, talks meanwhile, cancels one, redirects the other, is told that it is done, and
reports. At the end everything is read back from the log and checked.

A provider is called if its key is set: ANTHROPIC_API_KEY, OPENAI_API_KEY. In the place of any other
stands a local server that speaks its wire format. CALLBOARD_MODEL names the model; the program
speaks with Anthropic in any case.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from callboard import AsyncClient, Event, Job
from cast import PROVIDERS, Cast
from stage import console, running_server, say
from supervisor_checks import Act, Kill, check_act, kept_lines, logged_lines
from supervisor_players import Hosted, Outside, Supervisor
from supervisor_standins import supervising

CONFIG = Path(__file__).with_suffix(".toml")
CLAUDE = "anthropic:claude-haiku-5-5"
GPT = "openai:gpt-5.4-mini"
AGENTS = ("gaps", "perfect")
HOME = "demo/outside"
PATIENCE = 600
"""After how many seconds a supervisor that does something else is left."""

LAUNCH = "Have a gap of 600 between primes found, and by somebody else an odd perfect number."
TALK = "What is a perfect number, by the way?"
CANCEL = "Forget the perfect number."
REDIRECT = "And a gap of 100 is enough."


def choose_models() -> tuple[str, str]:
    """Returns by which model the supervisor on the server answers, and by which the program."""
    chosen = os.environ.get("CALLBOARD_MODEL", "")
    has_key = {name: bool(os.environ.get(each.key)) for name, each in PROVIDERS.items()}
    hosted = chosen or (GPT if has_key["openai"] and not has_key["anthropic"] else CLAUDE)
    return hosted, chosen if chosen.startswith("anthropic:") else CLAUDE


async def play_hosted(client: AsyncClient) -> Act:
    """Plays it with the supervisor on the server."""
    thread = await client.threads.create()
    supervisor = Hosted(client, thread.thread_id)
    await supervisor.hear(LAUNCH)
    meanwhile = await direct(client, supervisor)
    act = await read_back("hosted supervisor", client, supervisor, meanwhile)
    return replace(act, lines=logged_lines(act.log, thread.thread_id))


async def play_outside(
    client: AsyncClient, program: Outside, may_answer: asyncio.Event, is_held: bool
) -> Act:
    """Plays it with the program, which is killed when it has launched the jobs.

    Args:
        client: The server.
        program: The program.
        may_answer: Lets stand-ins say what came of a launch.
        is_held: Whether one of them answers for its model.
    """
    try:
        await program.start()
        may_answer.clear()
        program.tell(LAUNCH)
        launching = until_two(client, program.thread_id, is_launched)
        launched = await program.unless_ended(launching)
        kill = Kill(await program.kill(), launched, kept_lines(program.file), is_held)
        say("program", "is killed (kill -9) before it can answer, and started again", "yellow")
        may_answer.set()
        await program.start()
        meanwhile = await direct(client, program)
        await program.end()
    finally:
        await program.clean_up()
    act = await read_back("outside supervisor", client, program, meanwhile)
    return replace(act, lines=kept_lines(program.file), kill=kill)


async def direct(client: AsyncClient, supervisor: Supervisor) -> Sequence[Job]:
    """Goes on once two jobs are launched; returns them as they were while both were at work."""
    await until_two(client, supervisor.thread_id, is_at_work)
    await supervisor.hear(TALK)
    meanwhile = await jobs_of(client, supervisor)
    for job in meanwhile:
        say(job.agent, job.progress.message, "green")
    await supervisor.hear(CANCEL)
    await supervisor.hear(REDIRECT)
    await supervisor.report()
    await until_read(client, supervisor.thread_id)
    return meanwhile


async def until_two(
    client: AsyncClient, thread_id: str, are_so: Callable[[Job], bool]
) -> Sequence[Job]:
    """Waits until two jobs of a thread are as they shall be; returns them."""
    jobs: dict[str, Job] = {}
    async with client.jobs.watch(thread_id) as changes:
        async for job in changes:
            if are_so(job):
                jobs[job.job_id] = job
            if len(jobs) == len(AGENTS):
                break
    return list(jobs.values())


async def until_read(client: AsyncClient, thread_id: str) -> None:
    """Waits until a notice of a thread is marked as read: a program does so when it is done."""
    home = client.threads.stream(thread_id, kinds=["notices_read"], after_sequence=0)
    async with home as events:
        while not isinstance(await anext(events), Event):
            pass


def is_launched(job: Job) -> bool:
    return bool(job.job_id)


def is_at_work(job: Job) -> bool:
    """Whether it has said how far it is."""
    return bool(job.progress.message)


async def jobs_of(client: AsyncClient, supervisor: Supervisor) -> Sequence[Job]:
    return [job async for job in client.jobs.list(parent_thread_id=supervisor.thread_id)]


async def read_back(
    name: str, client: AsyncClient, supervisor: Supervisor, meanwhile: Sequence[Job]
) -> Act:
    """Reads what came of it."""
    home = supervisor.thread_id
    return Act(
        name=name,
        thread_id=home,
        meanwhile=meanwhile,
        jobs=await jobs_of(client, supervisor),
        notices=[each async for each in client.notices.list(home, include_read=True)],
        log=[event async for event in client.threads.events(home, scope="session")],
    )


async def run() -> Sequence[Act]:
    """Plays both on a server of its own."""
    hosted, claude = choose_models()
    may_answer = asyncio.Event()
    may_answer.set()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="callboard-demo-")))
        cast = Cast(stack, partial(supervising, may_answer=may_answer))
        for model in dict.fromkeys((hosted, claude)):
            await cast.add(model)
        environment = {**cast.environment, "CALLBOARD_SUPERVISOR": hosted}
        server = running_server(CONFIG, folder / "demo.db", environment)
        address = await stack.enter_async_context(server)
        say("server", f"Callboard serves on {address}, on a new database")
        client = await stack.enter_async_context(AsyncClient(address))
        home = await client.supervisor(HOME, AGENTS)
        file = folder / "conversation.jsonl"
        program = Outside(address, home, file, claude, AGENTS, cast.environment)
        try:
            async with asyncio.timeout(PATIENCE):
                console.rule("a supervisor on the server")
                acts = [await play_hosted(client)]
                console.rule("a supervisor in a program")
                is_held = cast.standin_of(claude) is not None
                acts += [await play_outside(client, program, may_answer, is_held)]
        except TimeoutError:
            raise SystemExit(f"They did not do as they were asked within {PATIENCE} s.") from None
        console.rule()
        return acts


def main() -> int:
    """Plays it and checks it; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    return max([check_act(act) for act in asyncio.run(run())])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        os._exit(130)
