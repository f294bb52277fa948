"""Lengths of time as people write them: 30s, 5m, 1h30m."""

from __future__ import annotations

import re

import typer

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def parse_duration(text: str) -> float:
    """The seconds of a length of time.

    Args:
        text: Numbers with units, such as 30s, 1.5h or 1h30m; seconds where there is no unit.

    Raises:
        typer.BadParameter: If it is something else.
    """
    try:
        return float(int(text))
    except ValueError:
        pass
    if not _WHOLE.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is no length of time; write 30s, 5m or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def format_duration(seconds: float) -> str:
    """A length of time in at most six characters."""
    if round(seconds, 1) < 10:
        return f"{max(0.0, seconds):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"
