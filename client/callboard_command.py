"""Where the command `callboard` begins: Ctrl-C ends it without a word also while it is loaded.

That takes most of a short command's time, and stands outside of the package for that reason: to
import anything of a package is to import the package.
"""

from __future__ import annotations

INTERRUPTED = 130


def main() -> int:
    """Runs the command line of this process, and returns its exit code."""
    try:
        from callboard.cli import main as run
    except KeyboardInterrupt:
        return INTERRUPTED
    return run()
