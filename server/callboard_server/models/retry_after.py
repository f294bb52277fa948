"""When a provider wants to be asked again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Returns how many seconds a response asks to wait; None where it does not say.

    Args:
        headers: The response's headers, with names in any case that the mapping ignores.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        seconds = _number(headers.get(name, "")) * unit
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        until = parsedate_to_datetime(headers.get("retry-after", ""))
        # Measured by the provider's clock: ours may be another.
        return max(0.0, (until - parsedate_to_datetime(headers.get("date", ""))).total_seconds())
    except (ValueError, TypeError):
        return None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
