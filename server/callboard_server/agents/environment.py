"""What of the server's environment is passed on: what is named, for the rest may be secret."""

from __future__ import annotations

import os
from collections.abc import Iterable

from callboard_server.config import ConfigError

_HARMLESS = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")


def variable(name: str) -> str:
    """Returns the value of an environment variable.

    Raises:
        ConfigError: It is not set.
    """
    value = os.environ.get(name)
    if value is None:
        raise ConfigError(f"the environment variable {name} is not set")
    return value


def passed_on(names: Iterable[str]) -> dict[str, str]:
    """Returns what a program is started with: what every one needs, and what is named.

    Raises:
        ConfigError: Something that is named is not set.
    """
    harmless = {name: os.environ[name] for name in _HARMLESS if name in os.environ}
    return harmless | {name: variable(name) for name in names}
