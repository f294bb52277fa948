"""The load generator of a side, in a process of its own.

Reads the names of workloads from standard input, a line each, measures its side at it and prints
the figure. So each side is loaded from its own environment, and only while it is its turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from benchmarks.side import Side
from benchmarks.workloads import CALLERS, EVENTS, FULL, PEER, QUICK, Sizes

LIMIT = 150.0
"""Seconds that a sample may take at most: a generator ends in any case."""

Operation = Callable[[], Awaitable[None]]
Measure = Callable[[Side, Sizes], Awaitable[float]]


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


async def median_ms(operation: Operation, seconds: float) -> float:
    """How long a thing takes, done again and again by one caller."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        await operation()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def calls(operation: Callable[[Side], Awaitable[None]]) -> Measure:
    async def measure(side: Side, sizes: Sizes) -> float:
        async def call() -> int:
            await operation(side)
            return 1

        return await rate(call, CALLERS, sizes.seconds)

    return measure


def streams(count: int) -> Measure:
    async def measure(side: Side, sizes: Sizes) -> float:
        async def stream() -> int:
            seen = 0
            async for _ in side.events("streamer"):
                seen += 1
            if seen != EVENTS:
                raise RuntimeError(f"{seen} of {EVENTS} events arrived")
            return seen

        return await rate(stream, count, sizes.seconds)

    return measure


async def run_latency(side: Side, sizes: Sizes) -> float:
    return await median_ms(side.run, sizes.seconds)


async def first_event(side: Side, sizes: Sizes) -> float:
    """The time to the first event; reading the rest of the stream does not count."""
    times: list[float] = []
    end = time.perf_counter() + sizes.seconds
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        first = None
        async for _ in side.events("starter"):
            first = first or time.perf_counter() - started
        if first is None:
            raise RuntimeError("no event arrived")
        times.append(first)
    return statistics.median(times) * 1000


def told(times: Callable[[Side], AsyncGenerator[float]], share: float) -> Measure:
    """The time that no more than this share of the jobs took, one after another."""

    async def measure(side: Side, sizes: Sizes) -> float:
        found: list[float] = []
        end = time.perf_counter() + sizes.seconds
        async with aclosing(times(side)) as took:
            async for seconds in took:
                found.append(seconds)
                if time.perf_counter() >= end:
                    break
        return sorted(found)[math.ceil(share * len(found)) - 1] * 1000

    return measure


def sleepers(count: Callable[[Sizes], int]) -> Measure:
    """The time until all have slept, launches included, as a multiple of their sleep."""

    async def measure(side: Side, sizes: Sizes) -> float:
        waiting = iter(range(count(sizes)))

        async def launch() -> None:
            for _ in waiting:
                await side.launch_sleeper(sizes.sleep)

        started = time.perf_counter()
        await asyncio.gather(*(launch() for _ in range(CALLERS)))
        await side.settle()
        took = time.perf_counter() - started
        await side.check_sleepers()
        return took / sizes.sleep

    return measure


def opening(operation: Callable[[Side], Operation]) -> Measure:
    async def measure(side: Side, sizes: Sizes) -> float:
        await side.fill_thread(sizes.long_thread)
        return await median_ms(operation(side), sizes.seconds)

    return measure


MEASURES: dict[str, Measure] = {
    "runs_per_s": calls(lambda side: side.run()),
    "launches_per_s": calls(lambda side: side.launch()),
    "run_latency_ms": run_latency,
    "notice_ms": told(lambda side: side.notices(), 0.5),
    "notice_p99_ms": told(lambda side: side.notices(), 0.99),
    "wake_up_ms": told(lambda side: side.wake_ups(), 0.5),
    "wake_up_p99_ms": told(lambda side: side.wake_ups(), 0.99),
    "first_event_ms": first_event,
    "events_per_s_1": streams(1),
    "events_per_s_20": streams(20),
    "unary_per_s": calls(lambda side: side.read()),
    "sleepers": sleepers(lambda sizes: sizes.some_sleepers),
    "many_sleepers": sleepers(lambda sizes: sizes.many_sleepers),
    "thread_state_ms": opening(lambda side: side.thread_state),
    "thread_page_ms": opening(lambda side: side.thread_page),
}


def side_of(name: str, address: str) -> Side:
    """Imports a side only where it is asked for: the environment may lack what others need."""
    if name == PEER:
        from benchmarks.peer.side import LangGraphSide

        return LangGraphSide(address)
    from benchmarks.callboard_side import CallboardSide

    return CallboardSide(address)


async def generate(side: Side, sizes: Sizes) -> None:
    await side.open()
    while key := (await asyncio.to_thread(sys.stdin.readline)).strip():
        async with asyncio.timeout(LIMIT):
            value = await MEASURES[key](side, sizes)
            await side.settle()
        print(json.dumps(value), flush=True)
    await side.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.loadgen", description=__doc__)
    parser.add_argument("side")
    parser.add_argument("address")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else FULL
    asyncio.run(generate(side_of(arguments.side, arguments.address), sizes))


if __name__ == "__main__":
    main()
