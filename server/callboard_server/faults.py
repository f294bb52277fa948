"""Points at which a server kills itself: an aid for testing what a crash leaves behind.

A point is named by a call of `point` and does nothing, unless the environment arms it:
CALLBOARD_FAULT="after_commit:3" lets the process end at the third pass of `after_commit`, at once
and without any clean-up, as kill -9 does. Without a number it is the first pass.

| point | where |
| --- | --- |
| before_commit | a group of operations is written, and not committed |
| after_commit | a group is committed, and nobody knows it yet |
| claimed | a run's claim is committed, and its agent has not begun |
| before_answer | a unary call is done, and its answer is not sent |
| before_frame | a stream's next frame is packed, and not sent |
"""

from __future__ import annotations

import os
import signal

VARIABLE = "CALLBOARD_FAULT"
POINTS = ("before_commit", "after_commit", "claimed", "before_answer", "before_frame")


def _pass(name: str) -> None:
    """Goes on."""


point = _pass


def arm(fault: str) -> None:
    """Arms a point, or none.

    Args:
        fault: A point's name, with ":3" to pass it twice before; empty to go on at all of them.

    Raises:
        ValueError: There is no such point.
    """
    global point
    armed, _, number = fault.partition(":")
    left = int(number or 1)
    if armed and armed not in POINTS:
        raise ValueError(f"there is no fault point {armed!r}: name one of {', '.join(POINTS)}")

    def count_down(name: str) -> None:
        nonlocal left
        if name == armed:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    point = count_down if armed else _pass


arm(os.environ.get(VARIABLE, ""))
