"""What an event says, on a line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from google.protobuf.json_format import MessageToJson

from callboard import Action, ContentBlock, Event, Notice, Progress, RunError, ToolCall, text_of
from callboard.cli.output import one_line
from callboard.cli.states import state_word
from callboard.v1.event_pb2 import (
    JobDelivery,
    RunCancelRequested,
    RunQueued,
    RunTrigger,
    StepRecorded,
    ThreadCreated,
)
from callboard.v1.lifecycle_pb2 import Outcome, WaitingFor
from callboard.v1.message_pb2 import StopReason, Usage


def short(identifier: str) -> str:
    """The beginning of an id, enough to tell it from the others on a screen."""
    return identifier[:8]


def event_gist(event: Event) -> str:
    """What an event says; empty where there is nothing more to it than its kind."""
    if event.redacted:
        return "(erased)"
    kind = event.WhichOneof("payload")
    if kind is None or kind not in _GISTS:
        return ""
    return one_line(_GISTS[kind](getattr(event, kind)))


def blocks_gist(blocks: Iterable[ContentBlock]) -> str:
    """What content blocks say."""
    return "  ".join(filter(None, map(_block, blocks)))


def call_gist(call: ToolCall) -> str:
    """A tool call."""
    return one_line(f"{call.name} {call.arguments_json}")


def notice_gist(notice: Notice) -> str:
    """What a notice says about a job."""
    return f"{notice.agent} {state_word(notice.state)}: {notice.task}"


def _block(block: ContentBlock) -> str:
    match block.WhichOneof("block"):
        case "text":
            return block.text.text
        case "tool_call":
            return f"→ {call_gist(block.tool_call)}"
        case "tool_result":
            result = block.tool_result
            return f"{'✗' if result.is_error else '←'} {result.name}: {result.text}"
        case "thinking":
            return f"(thinks) {block.thinking.text}"
        case "image":
            return f"(image {block.image.media_type})"
        case "file":
            return f"(file {block.file.name})"
        case _:
            return ""


def _progress(progress: Progress) -> str:
    count = f" ({progress.current}/{progress.total})" if progress.total else ""
    return progress.message + count


def _error(error: RunError) -> str:
    return f"✗ {error.message}" if error.message else ""


def _outcome(outcome: Outcome) -> str:
    return _error(outcome.error) or text_of(outcome.result)
