"""Bounds on what a run of a chat agent may use."""

from __future__ import annotations

from dataclasses import dataclass

from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.message_pb2 import Usage
from callboard_server.agents.errors import AgentError
from callboard_server.config import PriceSettings

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may use before it calls its model no more."""

    turns: int
    tokens: int | None = None
    cost: float | None = None
    price: PriceSettings | None = None
    """What the tokens cost; there is one where there is a bound on cost."""

    def check(self, turns: int, used: Usage) -> None:
        """Refuses a further call where a bound is reached.

        Args:
            turns: How many answers the model has given.
            used: What the calls used.

        Raises:
            AgentError: One is; the error names it.
        """
        if turns >= self.turns:
            raise _reached("max_turns", f"called its model {turns} times")
        tokens = used.input_tokens + used.output_tokens
        if self.tokens is not None and tokens >= self.tokens:
            raise _reached("max_total_tokens", f"used {tokens:,} tokens")
        if self.cost is not None and self.price is not None:
            cost = cost_of(used, self.price)
            if cost >= self.cost:
                raise _reached("max_cost", f"used tokens at a cost of {cost:.4g}")


def cost_of(used: Usage, price: PriceSettings) -> float:
    """Returns what tokens cost, in the money of the price."""
    cached = price.input if price.cached_input is None else price.cached_input
    written = price.input if price.cache_write is None else price.cache_write
    plain = used.input_tokens - used.cached_input_tokens - used.cache_write_tokens
    total = (
        plain * price.input
        + used.cached_input_tokens * cached
        + used.cache_write_tokens * written
        + used.output_tokens * price.output
    )
    return total / _MILLION


def _reached(limit: str, what: str) -> AgentError:
    return AgentError(
        f"The agent {what} and was not done. Raise {limit}, or give it less to do.",
        reason=ErrorReason.ERROR_REASON_TURN_LIMIT,
        metadata={"limit": limit},
    )
