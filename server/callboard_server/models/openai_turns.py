"""Conversations as both APIs of OpenAI want them, and as servers that speak so take them.

Calls have their results, nothing is empty, and before each answer there is something to answer.
A conversation grows at its end only: when it was answered and goes on, it begins with what was
answered.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from callboard.v1.message_pb2 import (
    ContentBlock,
    File,
    Image,
    Message,
    ProviderState,
    Role,
    Text,
    ToolCall,
    ToolResult,
)
from callboard_server.log.exchanges import calls_in
from callboard_server.models.history import (
    FAILED,
    GO_ON,
    UNANSWERED,
    late_result,
    read_arguments,
    valid_name,
)

_CALL_ID = re.compile(r"[\w-]{1,64}", re.ASCII)
_NOTHING = "The tool returned nothing."


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call and its result."""

    call_id: str
    name: str
    arguments: str
    output: str


@dataclass(frozen=True, slots=True)
class Turn:
    """What somebody says."""

    role: Role.ValueType
    content: Sequence[ContentBlock]
    """Texts, pictures and files; none is empty."""
    calls: Sequence[Call] = ()
    state: ProviderState = field(default_factory=ProviderState)

    @property
    def is_own(self) -> bool:
        """Whether the model's own assistant says it."""
        return self.role == Role.ROLE_ASSISTANT

    @property
    def texts(self) -> list[str]:
        return [block.text.text for block in self.content if block.HasField("text")]


def read_turns(messages: Sequence[Message]) -> Sequence[Turn]:
    """Returns the turns of a conversation, each with the results of its tool calls.

    A call that had no result when the assistant spoke again is closed with one that says so; a
    result that came later is told as a text.
    """
    conversation = _Conversation()
    for message in messages:
        conversation.add(message)
    conversation.complete()
    return conversation.turns


class _Conversation:
    """Turns in the making."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self._answer = Message()
        """The last one: what follows may hold results of its calls."""
        self._results: dict[str, ToolResult] = {}
        self._others: list[Turn] = []
        """What others said since."""
        self._ids: set[str] = set()

    def add(self, message: Message) -> None:
        if message.role == Role.ROLE_ASSISTANT:
            self.complete()
            self._answer = message
            return
        self._say(message.role, [block for block in message.content if _is_said(block)])
        for block in message.content:
            if block.HasField("tool_result"):
                self._take(block.tool_result)

    def complete(self) -> None:
        """Makes something to answer of what was said so far."""
        calls = [self._call(call) for call in calls_in(self._answer)]
        content = [block for block in self._answer.content if _is_said(block)]
        given_ids = [call.tool_call_id for call in calls_in(self._answer)]
        is_same = [call.call_id for call in calls] == given_ids
        state = self._answer.provider_state if is_same else ProviderState()
        if content or calls or state.blocks_json:
            self.turns.append(Turn(Role.ROLE_ASSISTANT, content, calls, state))
        self.turns += self._others
        self._answer, self._results, self._others = Message(), {}, []
        if not self.turns or (self.turns[-1].is_own and not self.turns[-1].calls):
            # Not all servers let a model go on by itself.
            self.turns.append(Turn(Role.ROLE_USER, [ContentBlock(text=Text(text=GO_ON))]))

    def _say(self, role: Role.ValueType, content: Sequence[ContentBlock]) -> None:
        if content:
            self._others.append(Turn(role, content))

    def _take(self, result: ToolResult) -> None:
        wanted = {call.tool_call_id for call in calls_in(self._answer)}
        if result.tool_call_id in wanted - self._results.keys():
            self._results[result.tool_call_id] = result
        elif result.text.strip():
            self._say(Role.ROLE_USER, [ContentBlock(text=Text(text=late_result(result)))])

    def _call(self, call: ToolCall) -> Call:
        call_id = call.tool_call_id
        if not is_call_id(call_id) or call_id in self._ids:
            # Another provider's, most likely. What comes in its place is the same each time.
            salted = f"{len(self._ids)} {call_id}".encode()
            call_id = f"call_{hashlib.sha256(salted).hexdigest()[:32]}"
        self._ids.add(call_id)
        return Call(
            call_id=call_id,
            name=valid_name(call.name),
            # A call that was cut off has none, and servers that parse them refuse the pieces.
            arguments=call.arguments_json if is_object(call.arguments_json) else "{}",
            output=_output(self._results.get(call.tool_call_id)),
        )


def is_call_id(text: str) -> bool:
    """Whether a text may be the id of a tool call."""
    return _CALL_ID.fullmatch(text) is not None


def is_object(arguments: str) -> bool:
    """Whether a text is one whole JSON object."""
    return read_arguments(arguments) is not None


def object_schema(parameters: Mapping[str, object]) -> dict[str, object]:
    """Returns the schema of a tool's arguments with what the APIs insist on."""
    return {"type": "object", "properties": {}, **parameters}


def address(source: Image | File) -> str:
    """Returns where a picture or a file is: an address, or one that holds the bytes."""
    if source.url:
        return source.url
    return f"data:{source.media_type};base64,{base64.b64encode(source.data).decode()}"


def inline(file: File) -> str | None:
    """Returns a text file as words to the model, which every server takes; None for others."""
    is_text = file.media_type.startswith("text/") or file.media_type == "application/json"
    if not (is_text and file.data):
        return None
    try:
        return f'<file name="{file.name}">\n{file.data.decode()}\n</file>'
    except UnicodeDecodeError:
        return None


def _is_said(block: ContentBlock) -> bool:
    match block.WhichOneof("block"):
        case "text":
            return bool(block.text.text.strip())
        case "image":
            return bool(block.image.data or block.image.url)
        case "file":
            return bool(block.file.data or block.file.url)
    return False


def _output(result: ToolResult | None) -> str:
    if result is None:
        return UNANSWERED
    if result.text.strip():
        return result.text
    return FAILED if result.is_error else _NOTHING
