"""What adapters share about conversations: words for what is missing, and how calls are read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from callboard.v1.message_pb2 import Message, ToolResult
from callboard_server.log.exchanges import calls_in
from callboard_server.log.voices import SYSTEM_TAG

GO_ON = "Go on."
"""What a user says where an answer is wanted and nobody said anything."""
UNANSWERED = "This call has no result: it was not run, or was interrupted."
FAILED = "The tool failed without saying why."

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
_MAX_NAME = 64


def mark_system(text: str) -> str:
    """Marks what the system says in a user's turn: there, not all models take its role."""
    return f"<{SYSTEM_TAG}>\n{text}\n</{SYSTEM_TAG}>"


def late_result(result: ToolResult) -> str:
    """Tells a result whose call is not there, or was closed before it came."""
    return f"Late result of {result.name}: {result.text}"


def call_ids(messages: Sequence[Message]) -> frozenset[str]:
    """Returns the ids of all tool calls of a conversation."""
    return frozenset(call.tool_call_id for message in messages for call in calls_in(message))


def valid_name(name: str) -> str:
    """Returns a tool's name as every provider takes it; it may come from another one."""
    return _NOT_IN_NAMES.sub("_", name)[:_MAX_NAME] or "tool"


def read_arguments(text: str) -> dict[str, Any] | None:
    """Reads the arguments of a call; None for what is not one whole JSON object."""
    try:
        arguments = json.loads(text)
        # Python also reads numbers that JSON does not have.
        json.dumps(arguments, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return arguments if isinstance(arguments, dict) else None
