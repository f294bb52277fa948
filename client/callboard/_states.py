"""Which states of a run, and so of a job, are the last one."""

from callboard.v1.lifecycle_pb2 import RunState

TERMINAL_STATES: frozenset[RunState.ValueType] = frozenset(
    {
        RunState.RUN_STATE_SUCCEEDED,
        RunState.RUN_STATE_FAILED,
        RunState.RUN_STATE_CANCELLED,
        RunState.RUN_STATE_SUPERSEDED,
        RunState.RUN_STATE_TIMED_OUT,
    }
)
"""The states that a run never leaves."""
