"""The command line, `callboard`. It needs the extra of its name: pip install 'callboard[cli]'."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: What follows the program's name; those of the process when left out.

    Returns:
        The exit code.
    """
    try:
        from callboard.cli.app import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("callboard"):
            raise
        print(
            f"error: the command line needs {error.name}, which is not installed\n"
            "hint: pip install 'callboard[cli]'",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        return 130
    return run(arguments)
