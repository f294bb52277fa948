"""What a run has recorded under its claims so far, and will not do again."""

from __future__ import annotations

from callboard.v1.event_pb2 import Event, StepRecorded, ToolStarted
from callboard_server.log.events import kinds
from callboard_server.log.fold import recorded_path

RECORDED_KINDS = kinds("step_recorded", "tool_started")
"""The kinds of events that record what was done."""


class Recorded:
    """The steps and tool calls of one run."""

    def __init__(self) -> None:
        self.steps: dict[tuple[str, ...], StepRecorded] = {}
        """By path."""
        self.tools_started: dict[str, ToolStarted] = {}
        """By tool_call_id."""

    def apply(self, event: Event) -> None:
        match event.WhichOneof("payload"):
            case "step_recorded":
                self.steps[recorded_path(event.step_recorded)] = event.step_recorded
            case "tool_started":
                self.tools_started[event.tool_started.call.tool_call_id] = event.tool_started
