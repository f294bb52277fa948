"""The load generator, in a process of its own: prints each sample as a line of JSON.

Every round measures each workload on one side after the other, in turns, so that whatever else the
machine does meets all sides alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable

from benchmarks.agents import EVENTS
from benchmarks.sides import CallboardSide, Side
from benchmarks.workloads import BY_KEY, CALLERS

SLACK = 65.0
"""Seconds that a generator may take beyond what it measures: it ends in any case."""

Measure = Callable[[Side, float], Awaitable[float]]
"""Measures a side for about so many seconds."""


async def rate(operation: Callable[[], Awaitable[int]], callers: int, seconds: float) -> float:
    """How much is done in a second by callers that each do one thing after another."""
    done = 0
    started = time.perf_counter()

    async def call() -> None:
        nonlocal done
        while time.perf_counter() < started + seconds:
            count = await operation()
            done += count

    await asyncio.gather(*(call() for _ in range(callers)))
    return done / (time.perf_counter() - started)


async def median_ms(operation: Callable[[], Awaitable[None]], seconds: float) -> float:
    """How long a thing takes, done again and again by one caller."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        await operation()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def calls(operation: Callable[[Side], Awaitable[None]]) -> Measure:
    async def measure(side: Side, seconds: float) -> float:
        async def call() -> int:
            await operation(side)
            return 1

        return await rate(call, CALLERS, seconds)

    return measure


def streams(count: int) -> Measure:
    async def measure(side: Side, seconds: float) -> float:
        async def stream() -> int:
            seen = 0
            async for _ in side.events("streamer"):
                seen += 1
            if seen != EVENTS:
                raise RuntimeError(f"{seen} of {EVENTS} events arrived")
            return seen

        return await rate(stream, count, seconds)

    return measure


async def run_latency(side: Side, seconds: float) -> float:
    return await median_ms(side.run, seconds)


async def first_event(side: Side, seconds: float) -> float:
    """The time to the first event; reading the rest of the stream does not count."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        first = None
        async for _ in side.events("starter"):
            first = first or time.perf_counter() - started
        if first is None:
            raise RuntimeError("no event arrived")
        times.append(first)
    return statistics.median(times) * 1000


MEASURES: dict[str, Measure] = {
    "unary_per_s": calls(lambda side: side.read()),
    "events_per_s_1": streams(1),
    "events_per_s_20": streams(20),
    "runs_per_s": calls(lambda side: side.run()),
    "launches_per_s": calls(lambda side: side.launch()),
    "run_latency_ms": run_latency,
    "first_event_ms": first_event,
}


async def generate(sides: dict[str, Side], rounds: int, seconds: float, only: list[str]) -> None:
    for side in sides.values():
        await side.open()
    for number in range(rounds):
        # Who goes first has it harder or easier: take turns.
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        for key in only:
            for name in order:
                value = await MEASURES[key](sides[name], seconds)
                await sides[name].settle()
                sample = {"round": number, "workload": key, "side": name, "value": value}
                print(json.dumps(sample), flush=True)
    for side in sides.values():
        await side.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.loadgen", description=__doc__)
    parser.add_argument("sides", nargs="+", metavar="NAME=ADDRESS")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--only", nargs="+", choices=list(BY_KEY), default=list(BY_KEY))
    arguments = parser.parse_args()
    addresses = dict(side.split("=", 1) for side in arguments.sides)
    sides: dict[str, Side] = {name: CallboardSide(at) for name, at in addresses.items()}
    samples = arguments.rounds * len(arguments.only) * len(sides)
    work = generate(sides, arguments.rounds, arguments.seconds, arguments.only)
    asyncio.run(asyncio.wait_for(work, samples * arguments.seconds + SLACK))


if __name__ == "__main__":
    main()
