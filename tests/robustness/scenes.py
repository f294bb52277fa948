"""What clients do while their server is killed. Each scene is one piece of work with its end.

To add a kind of work: an agent in crew.py, and a scene here, which goes into SCENES; those with
supervisors are in supervision.py. A scene gives every request a text of its own (`Client.label`),
writes down what the server says it took (`History.took`), and asserts what the work has to come to.
All else is checked afterwards, over what was written down and over the log.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc

import callboard
from callboard import ActionResponse, Delta, Event, Job, Permission, Run, RunState, text_of
from callboard._enums import DeliveryName, KindName, MultitaskName
from callboard.v1 import thread_pb2_grpc
from callboard.v1.run_pb2 import EventFrame
from callboard.v1.thread_pb2 import EVENT_SCOPE_SESSION, StreamEventsRequest
from tests.robustness import validators
from tests.robustness.history import History, Reading

SUCCEEDED = RunState.RUN_STATE_SUCCEEDED
CANCELLED = RunState.RUN_STATE_CANCELLED
SUPERSEDED = RunState.RUN_STATE_SUPERSEDED
TIMED_OUT = RunState.RUN_STATE_TIMED_OUT

_CHANNEL = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
    # A connection of its own.
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass
class Client:
    """A client with a name, a memory, and its own luck."""

    name: str
    sdk: callboard.AsyncClient
    threads: thread_pb2_grpc.ThreadServiceAsyncStub
    history: History
    chance: random.Random
    home: str
    """A thread below which it may launch jobs."""
    labels: int = 0
    began: list[str] = field(default_factory=list)
    """The scenes that it has begun."""

    def label(self) -> str:
        """Returns a name that nothing else has."""
        self.labels += 1
        return f"{self.name}.{self.labels}"

    def is_lucky(self) -> bool:
        return self.chance.random() < 0.5


@asynccontextmanager
async def connected(
    address: str, name: str, history: History, seed: int, home: str = ""
) -> AsyncIterator[Client]:
    """A client with a connection of its own."""
    async with grpc.aio.insecure_channel(address, options=_CHANNEL) as channel:
        sdk = callboard.AsyncClient(channel=channel, timeout=60)
        stub = thread_pb2_grpc.ThreadServiceStub(channel)
        yield Client(name, sdk, stub, history, random.Random(seed), home)


async def play(client: Client, stop: asyncio.Event, scenes: Sequence[Scene]) -> None:
    """Plays scene after scene until it is told to stop, and the last one to its end."""
    while not stop.is_set():
        scene = client.chance.choice(scenes)
        client.began.append(scene.__name__)
        await scene(client)


# What scenes are made of


async def launch(
    client: Client, agent: str, task: str, *, home: str | None = None, **options: Any
) -> tuple[Job, str]:
    """Launches a job, now and then twice, and returns it with its task."""
    label = client.label()
    task = f"{task} [{label}]"
    if home is None:
        home = client.chance.choice(("", client.home))

    async def call() -> Job:
        return await client.sdk.jobs.launch(
            agent, task, parent_thread_id=home, request_id=label, notify="none", **options
        )

    job = await call()
    client.history.took(task, job.job_id, job.run_id)
    client.history.named(job.job_id, job.sequence)
    if client.chance.random() < 0.2:
        again = await call()
        assert (again.job_id, again.run_id) == (job.job_id, job.run_id), "launched anew"
    return job, task


async def follow(client: Client, job: Job) -> None:
    """Follows a job to its end, one way or another."""
    await client.chance.choice(WAYS)(client, job)


async def stream(client: Client, job: Job) -> None:
    """Streams what happens on a job's thread, by the SDK."""
    reading = client.history.reads(job.job_id, lambda event: event.thread_id == job.job_id)
    async with client.sdk.threads.stream(job.job_id, until="done", deltas=True) as items:
        await take(reading, items)


async def take(reading: Reading, items: callboard.AsyncEventStream) -> None:
    """Writes down a stream of the SDK."""
    async for item in items:
        if isinstance(item, Delta):
            reading.deltas.append(item)
        else:
            reading.events.append(item)
    reading.cursor = items.cursor


async def watch(client: Client, job: Job) -> None:
    """Watches how a job stands."""
    changes = client.sdk.jobs.watch(job_id=job.job_id, until="done")
    client.history.watched.append([change async for change in changes])


async def wait(client: Client, job: Job) -> None:
    """Waits for a job's end."""
    await client.sdk.jobs.wait(job.job_id)


async def wander(client: Client, job: Job) -> None:
    """Reads the session frame by frame, leaving often, each time from where it was."""
    reading = client.history.reads(job.job_id)
    request = StreamEventsRequest(
        thread_id=job.job_id, scope=EVENT_SCOPE_SESSION, deltas=client.is_lucky()
    )
    over = False
    while not over:
        request.after_sequence = reading.cursor
        frames = reading.open()
        call = client.threads.StreamEvents(request)
        try:
            async for frame in call:
                frames.append(frame)
                over = _has_end(frame, job)
                if over or client.chance.random() < 0.3:
                    break
        except grpc.aio.AioRpcError as error:
            # The server was killed.
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error
            await asyncio.sleep(0.02)
        finally:
            call.cancel()
        reading.cursor = validators.last_cursor(frames, reading.cursor)


def _has_end(frame: EventFrame, job: Job) -> bool:
    return any(e.run_id == job.run_id and e.HasField("run_finished") for e in frame.events)


WAYS: Sequence[Callable[[Client, Job], Awaitable[None]]] = (stream, watch, wait, wander)


async def ended(client: Client, job: Job, *states: RunState.ValueType) -> Job:
    """Waits for a job's end, which must be one of these."""
    [job] = await client.sdk.jobs.wait(job.job_id)
    assert job.state in states, f"the job came to {RunState.Name(job.state)}: {job}"
    client.history.named(job.job_id, job.sequence)
    return job


async def reached(client: Client, job: Job, kind: KindName) -> Event:
    """Waits for the first event of some kind on a job's thread."""
    async with client.sdk.threads.stream(job.job_id, kinds=[kind], until="never") as items:
        async for item in items:
            if isinstance(item, Event):
                return item
    raise AssertionError("a stream without an end ended")


async def finish(client: Client, agent: str, task: str, result: str) -> Job:
    """Has a job done that comes to a result, with its task where that has a place for it."""
    job, task = await launch(client, agent, task)
    await follow(client, job)
    job = await ended(client, job, SUCCEEDED)
    assert text_of(job.outcome.result) == result.format(task), job
    return job


# Scenes


async def steps(client: Client) -> None:
    """A function agent with steps does all of them."""
    job, task = await launch(client, "stepper", "measure")
    await follow(client, job)
    job = await ended(client, job, SUCCEEDED)
    assert text_of(job.outcome.result) == f"measured it all: {task}"
    state = await client.sdk.threads.state(job.job_id)
    values = callboard.to_dict(state.values)
    assert values == {"measured": 3, **{f"at{n}": True for n in range(4)}}, values
    # What a claim that was cut off has said is void: the input, four messages and the result.
    assert state.message_count == 6, state


async def naps(client: Client) -> None:
    """A function agent in a thread does all of its steps."""
    await finish(client, "plain", "rest", "rested: {}")


async def research(client: Client) -> None:
    """A chat agent calls tools and answers with what they found, or that it cannot tell."""
    job, task = await launch(client, "researcher", "research")
    await follow(client, job)
    job = await ended(client, job, SUCCEEDED)
    result = text_of(job.outcome.result)
    what = task.removeprefix("research ")
    unknown = result.count("Whether it had its effect is not known")
    assert result.count(f"found {what}") + unknown == 2, result
    assert f"{len(what)} letters" in result, result


async def family(client: Client) -> None:
    """An agent launches jobs of its own, each once, and waits for them."""
    job = await finish(client, "parent", "delegate", "2 parts: {}")
    parts = [part async for part in client.sdk.jobs.list(parent_thread_id=job.job_id)]
    assert sorted(part.task for part in parts) == [f"part {n} of {job.task}" for n in range(2)]


_DELIVERIES: Sequence[DeliveryName] = ("interrupt", "enqueue")


async def redirect(client: Client) -> None:
    """A job gets new instructions while it works."""
    job, _ = await launch(client, "stepper", "measure")
    if client.is_lucky():
        await reached(client, job, "run_progress")
    label = client.label()
    delivery = client.chance.choice(_DELIVERIES)
    instructions = f"measure again [{label}]"
    updated = await client.sdk.jobs.update(
        job.job_id, instructions, delivery=delivery, request_id=label
    )
    client.history.took(instructions, updated.job_id, updated.run_id)
    await follow(client, updated)
    updated = await ended(client, updated, SUCCEEDED)
    assert (updated.run_count, updated.job_id) == (2, job.job_id)
    assert text_of(updated.outcome.result) == f"measured it all: {instructions}"
    first = await client.sdk.runs.get(job.run_id)
    assert first.state in (SUCCEEDED, SUPERSEDED), first
    assert first.state == SUCCEEDED or delivery == "interrupt", first


async def cancel(client: Client) -> None:
    """A job is cancelled, queued or running, and stays it."""
    job, _ = await launch(client, "steady", "go on for ever")
    if client.is_lucky():
        await reached(client, job, "message_added")
    follower = asyncio.create_task(follow(client, job))
    await client.sdk.jobs.cancel(job.job_id)
    job = await ended(client, job, CANCELLED)
    await follower
    again = await client.sdk.jobs.cancel(job.job_id)
    assert (again.state, again.end_time) == (CANCELLED, job.end_time)


async def converse(client: Client) -> None:
    """Messages and runs on one thread keep their order, and values what was merged."""
    label = client.label()
    opening = f"begin [{label}]"
    thread = await client.sdk.threads.create(opening, request_id=label)
    client.history.took(opening, thread.thread_id)
    client.history.named(thread.thread_id, thread.head_sequence)
    runs: list[Run] = []
    for agent in client.chance.sample(("stepper", "plain", "researcher"), 2):
        runs.append(await _talk(client, agent, thread.thread_id))
    for run in runs:
        run = await client.sdk.runs.wait(run.run_id)
        assert run.state == SUCCEEDED, run
    said = [text_of(m) async for m in client.sdk.threads.messages(thread.thread_id)]
    assert said[0] == opening, said


async def _talk(client: Client, agent: str, thread_id: str) -> Run:
    label = client.label()
    text = f"research [{label}]"
    run = await client.sdk.runs.create(agent, text, thread_id=thread_id, request_id=label)
    client.history.took(text, thread_id, run.run_id)
    label = client.label()
    aside = f"by the way [{label}]"
    thread = await client.sdk.threads.update_state(
        thread_id, aside, values={label.replace(".", "_"): True}, request_id=label
    )
    client.history.took(aside, thread_id)
    client.history.named(thread_id, thread.head_sequence)
    return run


async def run_and_stream(client: Client) -> None:
    """A run is started and streamed in one call, which goes on with the same run."""
    label = client.label()
    text = f"research [{label}]"
    agent = client.chance.choice(("researcher", "stepper"))
    reading = client.history.reads("")
    async with client.sdk.runs.stream(agent, text, request_id=label) as items:
        await take(reading, items)
        run = items.run
    assert run is not None
    run_id = run.run_id
    client.history.took(text, run.thread_id, run_id)
    reading.thread_id, reading.matches = run.thread_id, lambda event: event.run_id == run_id
    assert reading.events[-1].run_finished.state == SUCCEEDED, reading.events[-1]


async def sleeps(client: Client) -> None:
    """An agent sleeps between its steps, and gets up again."""
    await finish(client, "sleeper", "sleep", "slept: {}")


async def children(client: Client) -> None:
    """An agent waits for its jobs without a slot."""
    await finish(client, "boss", "delegate", "2 parts: {}")


async def branches(client: Client) -> None:
    """An agent works in branches, each with its steps and sleeps."""
    await finish(client, "crowd", "measure", "3: {}")


async def retries(client: Client) -> None:
    """A failed attempt is repeated once, and goes on behind its recorded step."""
    job = await finish(client, "flaky", "measure", "done at last: {}")
    assert job.attempt == 2, job


async def hand_over(client: Client) -> None:
    """A tool that may be repeated launches a job, once all the same."""
    await finish(client, "researcher", "hand over", "handed over to plain")


async def ask(client: Client) -> None:
    """An agent asks, and goes on with the answer."""
    job, task = await launch(client, "asker", "count")
    number = client.chance.randrange(1000)
    await answer(client, job, ActionResponse(answer_json=str(number)))
    await follow(client, job)
    job = await ended(client, job, SUCCEEDED)
    assert text_of(job.outcome.result) == f"{number}: {task}", job


async def permit(client: Client) -> None:
    """A tool runs when it is allowed to, and else does not."""
    job, _ = await launch(client, "researcher", "blow up")
    permission = Permission(allow=client.is_lucky(), deny_message="Better not.")
    await answer(client, job, ActionResponse(permission=permission))
    await follow(client, job)
    job = await ended(client, job, SUCCEEDED)
    result = text_of(job.outcome.result)
    if permission.allow:
        assert result.startswith("blew up") or "not known" in result, job
    else:
        assert "Better not." in result, job


async def answer(client: Client, job: Job, response: ActionResponse) -> None:
    """Answers what a job asks, now and then twice."""
    raised = await reached(client, job, "action_raised")
    response.action_id = raised.action_raised.action.action_id
    label = client.label()
    for _ in range(client.chance.choice((1, 1, 2))):
        found = await client.sdk.runs.respond(job.job_id, [response], request_id=label)
        assert [run.run_id for run in found.runs] == [job.run_id], found


async def expire(client: Client) -> None:
    """A run that takes too long is timed out."""
    job, _ = await launch(client, "steady", "go on for ever", timeout=0.2)
    await follow(client, job)
    await ended(client, job, TIMED_OUT)


async def delay(client: Client) -> None:
    """A run that was put off starts when its time has come."""
    due = datetime.now(UTC) + timedelta(seconds=client.chance.uniform(0.05, 0.5))
    thread = await client.sdk.threads.create()
    run = await say(client, "plain", thread.thread_id, start_after=due)
    assert run is not None
    run = await client.sdk.runs.wait(run.run_id)
    assert run.state == SUCCEEDED, run
    assert run.start_time.ToDatetime(UTC) >= due, (run, due)


async def jostle(client: Client) -> None:
    """A run meets another on its thread, and both end as the strategy has it."""
    thread = (await client.sdk.threads.create()).thread_id
    first = await say(client, "stepper", thread)
    assert first is not None
    if client.is_lucky():
        await _started(client, first)
    strategy = client.chance.choice(list(_FIRST_ENDS))
    # Values are none of a concurrent run's business.
    agent = "plain" if strategy == "concurrent" else "stepper"
    second = await say(client, agent, thread, multitask_strategy=strategy)
    first = await client.sdk.runs.wait(first.run_id)
    assert first.state in _FIRST_ENDS[strategy], (strategy, first)
    if second is not None:
        second = await client.sdk.runs.wait(second.run_id)
        assert second.state == SUCCEEDED, (strategy, second)
        assert strategy == "steer" or second.run_id != first.run_id, strategy


_FIRST_ENDS: dict[MultitaskName, tuple[RunState.ValueType, ...]] = {
    "enqueue": (SUCCEEDED,),
    "reject": (SUCCEEDED,),
    "interrupt": (SUCCEEDED, SUPERSEDED),
    "rollback": (SUCCEEDED, SUPERSEDED),
    "steer": (SUCCEEDED,),
    "concurrent": (SUCCEEDED,),
}
"""How a run may end that another one meets, by the other's strategy."""


async def say(client: Client, agent: str, thread_id: str, **options: Any) -> Run | None:
    """Starts a run on a thread; None where it was refused, because the thread is busy."""
    label = client.label()
    text = f"say [{label}]"
    try:
        run = await client.sdk.runs.create(
            agent, text, thread_id=thread_id, request_id=label, **options
        )
    except callboard.Conflict:
        client.history.refused.append(text)
        return None
    client.history.took(text, thread_id, run.run_id)
    return run


async def _started(client: Client, run: Run) -> None:
    """Waits until a run has recorded a step."""
    recorded: list[KindName] = ["step_recorded"]
    async with client.sdk.threads.stream(run_id=run.run_id, kinds=recorded) as items:
        await anext(items)


async def forget(client: Client) -> None:
    """A session that was deleted does not come back."""
    job, _ = await launch(client, "plain", "rest", home="")
    await ended(client, job, SUCCEEDED)
    while True:
        try:
            await client.sdk.threads.delete(job.job_id)
        except callboard.Unavailable:
            # It may be deleted or not.
            await asyncio.sleep(0.02)
        except callboard.NotFound:
            break
        else:
            break
    client.history.forget(job.job_id)


Scene = Callable[[Client], Awaitable[None]]

SCENES: list[Scene] = [
    steps,
    naps,
    research,
    family,
    redirect,
    cancel,
    converse,
    run_and_stream,
    sleeps,
    children,
    retries,
    ask,
    permit,
    expire,
    delay,
    jostle,
    forget,
    branches,
    hand_over,
]
