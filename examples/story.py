"""The main job from end to end: a supervisor has two jobs done and goes on talking meanwhile.

Starts a server of its own on a new SQLite file with the three agents of callboard.toml. They answer
by tables of patterns, or by the model that CALLBOARD_MODEL names. At the end the story is read back
from the log and checked.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import sysconfig
import tempfile
from pathlib import Path

from callboard import AsyncClient, text_of
from callboard.v1.event_pb2 import Event
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.run_pb2 import Delta
from stage import console, running_server, say
from story_checks import Story, check_story

HERE = Path(__file__).parent
KEYS = {"ANTHROPIC_API_KEY": "anthropic", "OPENAI_API_KEY": "openai"}
QUESTION = "How does asyncio cancel a task, and what does the task see of it?"


def describe_model() -> str:
    """Tells what the agents answer by, and how to let them answer by something else."""
    if model := os.environ.get("CALLBOARD_MODEL"):
        return f"The agents answer by {model}."
    told = "The agents answer by tables of patterns, not by a language model."
    for key, provider in KEYS.items():
        if os.environ.get(key):
            return f"{told} {key} is set: CALLBOARD_MODEL={provider}:MODEL lets them use it."
    return told


async def ask(client: AsyncClient, thread_id: str, text: str) -> str:
    """Says something to the supervisor and prints its answer as it is written."""
    say("you", text, "bold cyan")
    said = ""
    async with client.runs.stream("supervisor", text, thread_id=thread_id) as stream:
        async for item in stream:
            if isinstance(item, Delta):
                said += item.text
        run = stream.run
    if run is None:
        raise RuntimeError("the stream ended without its run")
    answer = text_of((await client.runs.get(run.run_id)).outcome.result)
    for line in answer.splitlines()[:12]:
        say("supervisor", line, "bold magenta")
    return answer


async def show_progress(client: AsyncClient, thread_id: str) -> list[Job]:
    """Prints every change of the jobs until all are finished; returns them."""
    jobs: dict[str, Job] = {}
    shown: dict[str, str] = {}
    async with client.jobs.watch(parent_thread_id=thread_id, until="done") as changes:
        async for job in changes:
            jobs[job.job_id] = job
            line = job.progress.message or RunState.Name(job.state).removeprefix("RUN_STATE_")
            if job.end_time.seconds:
                line = RunState.Name(job.state).removeprefix("RUN_STATE_")
            if shown.get(job.job_id) != line:
                shown[job.job_id] = line
                say(job.agent, line, "green")
    return list(jobs.values())


async def record_session(client: AsyncClient, thread_id: str) -> list[Event]:
    """Reads the whole session live until nothing in it is at work any more."""
    events = client.threads.stream(thread_id=thread_id, scope="session", until="done")
    async with events as stream:
        return [event async for event in stream if isinstance(event, Event)]


async def tell(client: AsyncClient, question: str, folder: Path) -> Story:
    """Plays the story."""
    thread = await client.threads.create()
    console.print()
    await ask(client, thread.thread_id, f"Research {question} in {folder} and review {folder}")
    progress = asyncio.create_task(show_progress(client, thread.thread_id))
    live = asyncio.create_task(record_session(client, thread.thread_id))
    await ask(client, thread.thread_id, "How are they doing?")
    jobs = await progress
    watched = await live
    console.print()
    for job in sorted(jobs, key=lambda job: job.create_time.ToNanoseconds()):
        console.rule(f"{job.agent}: {RunState.Name(job.state).removeprefix('RUN_STATE_')}")
        console.print(text_of(job.outcome.result), markup=False)
    console.rule()
    events = client.threads.events(thread.thread_id, scope="session")
    log = [event async for event in events]
    return Story(thread.thread_id, folder, jobs, watched, log)


async def main() -> int:
    """Runs the story; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default=QUESTION, help="the question to research")
    parser.add_argument("--dir", default=sysconfig.get_path("stdlib"), help="the folder to work on")
    options = parser.parse_args()
    folder = Path(options.dir).expanduser().resolve()
    if not folder.is_dir():
        parser.error(f"--dir: there is no folder {folder}")
    with tempfile.TemporaryDirectory(prefix="callboard-story-") as home:
        db = Path(home) / "story.db"
        async with (
            running_server(HERE / "callboard.toml", db) as address,
            AsyncClient(address) as client,
        ):
            version = (await client.server.info()).version
            say("server", f"Callboard {version} serves on {address}, on a new database")
            say("server", describe_model())
            story = await tell(client, options.task, folder)
    return check_story(story)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        os._exit(130)
