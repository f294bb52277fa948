"""Agents that search among the numbers, and some of them for as long as anybody lets them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from math import isqrt

from callboard_server import AgentError, SyncContext

_SIEVED = 1_000_000
_TRIED = 10_000
"""How many numbers are looked at before the next word on how far it is."""
_PAUSE = 0.1
"""For how many seconds others may compute then: these searches have time."""


def gaps(ctx: SyncContext) -> str:
    """Finds the first gap of some size between two primes. The task holds one number: the size."""
    numbers = re.findall(r"\d+", ctx.input().replace(",", ""))
    if not numbers:
        raise AgentError("Give me the size of the gap, such as: 100")
    size, widest, last = int(numbers[0]), 0, 2
    for start in range(0, 10**15, _SIEVED):
        ctx.check_cancelled()
        for prime in _primes(start, start + _SIEVED):
            if prime - last >= size:
                return f"The first gap of {size} or more is {prime - last}, from {last} to {prime}."
            last, widest = prime, max(widest, prime - last)
        ctx.progress(f"no gap of {size} up to {last:,}; the widest is {widest}")
        time.sleep(_PAUSE)
    raise AgentError(f"There is no gap of {size} up to {last:,}, and I look no further.")


def perfect(ctx: SyncContext) -> str:
    """Looks for an odd perfect number. Whether there is one, nobody knows."""
    for start in range(1, 10**15, _TRIED):
        for number in range(start, start + _TRIED, 2):
            ctx.check_cancelled()
            if _divisors_sum(number) == 2 * number:
                return f"{number} is odd and perfect."
        ctx.progress(f"no odd perfect number up to {start + _TRIED:,}")
        time.sleep(_PAUSE)
    raise AgentError("There is none up to 10^15, and I look no further.")


def _primes(start: int, end: int) -> Iterator[int]:
    """Yields the primes from a number up to another, which is not included."""
    is_prime = bytearray([1]) * (end - start)
    for divisor in range(2, isqrt(end) + 1):
        first = max(divisor * divisor, -(-start // divisor) * divisor)
        is_prime[first - start :: divisor] = bytes(len(range(first, end, divisor)))
    for number, prime in enumerate(is_prime, start):
        if prime and number > 1:
            yield number


def _divisors_sum(number: int) -> int:
    """Adds up the divisors of a number."""
    root = isqrt(number)
    pairs = (each + number // each for each in range(1, root + 1) if number % each == 0)
    return sum(pairs) - (root if root * root == number else 0)
