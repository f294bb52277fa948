"""Models behind the Chat Completions API, which many servers have.

They differ in what they send: the reader takes what is there and relies on nothing that an answer
can do without.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI

from callboard.v1.message_pb2 import ContentBlock, Role, StopReason
from callboard_server.models.base import Answer, FailureKind, ModelRequest, Piece, ToolDefinition
from callboard_server.models.failures import failure
from callboard_server.models.history import call_ids, mark_system
from callboard_server.models.openai_client import is_compatible, read_usage, stream_answer
from callboard_server.models.openai_draft import Draft, Kind, write_arguments
from callboard_server.models.openai_failures import describe_report
from callboard_server.models.openai_turns import (
    Turn,
    address,
    inline,
    object_schema,
    read_turns,
)

_STOP_REASONS = {
    "content_filter": StopReason.STOP_REASON_REFUSAL,
    "length": StopReason.STOP_REASON_MAX_TOKENS,
    "model_length": StopReason.STOP_REASON_CONTEXT_OVERFLOW,
}

# Servers that stop before the answer is whole say it so.
_BROKEN = frozenset({"abort", "error", "insufficient_system_resource"})


def render_request(request: ModelRequest, model: str, *, compatible: bool) -> dict[str, Any]:
    """Renders a request.

    Args:
        request: What to ask.
        model: The server's id of the model.
        compatible: Whether the server is another than OpenAI's, and may refuse what is new.
    """
    messages: list[dict[str, Any]] = []
    if request.system.strip():
        messages.append({"role": "system", "content": request.system})
    for turn in read_turns(request.messages):
        messages += _messages(turn, compatible=compatible)
    parameters: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "stream_options": {"include_usage": True},
    }
    if request.tools:
        parameters["tools"] = [_tool(tool) for tool in request.tools]
    if request.effort:
        parameters["reasoning_effort"] = request.effort
    if request.max_output_tokens is not None:
        # The newer name is the only one that OpenAI's newer models take, and unknown elsewhere.
        limit = "max_tokens" if compatible else "max_completion_tokens"
        parameters[limit] = request.max_output_tokens
    if request.output_schema is not None:
        schema = {"name": "answer", "schema": dict(request.output_schema), "strict": False}
        parameters["response_format"] = {"type": "json_schema", "json_schema": schema}
    return parameters


class ChatCompletionsModel:
    """A model of a server that has the Chat Completions API.

    Args:
        name: What its messages say they were written by.
        model: The server's id of the model.
        client: Where the model is.
        account: A digest of the key; here no answer is bound to it.
    """

    def __init__(self, name: str, model: str, client: AsyncOpenAI, account: str) -> None:
        self.name = name
        self._model = model
        self._client = client

    def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | Answer, None]:
        parameters = render_request(request, self._model, compatible=is_compatible(self._client))
        reader = _Reader(self.name, Draft(call_ids(request.messages)))
        return stream_answer(self._client, "/chat/completions", parameters, reader, self.name)


@dataclass(slots=True)
class _Call:
    """How a stream tells a tool call from the others."""

    index: object
    call_id: str

    def goes_on(self, index: object, call_id: str, name: str) -> bool:
        """Whether a piece with these belongs to the call.

        Some servers send no index, or the same for all; some repeat id and name in each piece, and
        some have a new id for each.
        """
        if index is not None:
            is_other = call_id and self.call_id and call_id != self.call_id and name
            return index == self.index and not is_other
        if call_id:
            return call_id == self.call_id or not name
        return not name


class _Reader:
    """Makes an answer of the chunks of a completion."""

    def __init__(self, name: str, draft: Draft) -> None:
        self._name = name
        self._draft = draft
        self._calls: list[_Call] = []
        self._refused = False
        self._finish_reason = ""
        self._usage: object = None

    @property
    def is_whole(self) -> bool:
        return bool(self._finish_reason)

    def read(self, event: Mapping[str, Any]) -> Iterator[Piece]:
        if event.get("object") == "error":
            raise describe_report(event, self._name)
        # Some servers count in each chunk: the last one is right.
        self._usage = event.get("usage") or self._usage
        match event.get("choices"):
            case [dict(choice), *_]:
                yield from self._read_choice(choice)

    def answer(self) -> Answer:
        usage = read_usage(self._usage, "prompt_tokens", "completion_tokens")
        stop_reason = self._stop_reason()
        wants_tools = stop_reason == StopReason.STOP_REASON_TOOL_USE
        is_broken = not self.is_whole or self._finish_reason in _BROKEN
        if is_broken or (wants_tools and not self._draft.is_callable):
            known = usage if self._usage else None
            raise failure(FailureKind.BROKEN_OFF, self._name, usage=known)
        return Answer(self._draft.content(), usage, stop_reason)

    def _read_choice(self, choice: Mapping[str, Any]) -> Iterator[Piece]:
        match choice.get("delta"):
            case dict(delta):
                yield from self._read_delta(delta)
        match choice.get("finish_reason"):
            case str(reason) if reason:
                self._finish_reason = reason

    def _read_delta(self, delta: Mapping[str, Any]) -> Iterator[Piece]:
        # Two names for the same; servers that change from one to the other send both.
        match delta:
            case {"reasoning_content": str(text)} | {"reasoning": str(text)}:
                yield from self._draft.add("thinking", Kind.THINKING, text)
        match delta:
            case {"content": str(text)}:
                yield from self._draft.add("text", Kind.TEXT, text)
        match delta:
            case {"refusal": str(text)} if text:
                self._refused = True
                yield from self._draft.add("refusal", Kind.TEXT, text)
        match delta:
            case {"tool_calls": list(calls)}:
                for call in calls:
                    if isinstance(call, dict):
                        yield from self._read_call(call)

    def _read_call(self, call: Mapping[str, Any]) -> Iterator[Piece]:
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        name, call_id = function.get("name") or "", call.get("id") or ""
        place = self._place(call.get("index"), str(call_id), str(name))
        self._draft.call(place, name, call_id)
        arguments = write_arguments(function.get("arguments"))
        yield from self._draft.add(place, Kind.CALL, arguments)

    def _place(self, index: object, call_id: str, name: str) -> int:
        for place in reversed(range(len(self._calls))):
            if self._calls[place].goes_on(index, call_id, name):
                return place
        self._calls.append(_Call(index, call_id))
        return len(self._calls) - 1

    def _stop_reason(self) -> StopReason.ValueType:
        if self._refused:
            return StopReason.STOP_REASON_REFUSAL
        if (reason := _STOP_REASONS.get(self._finish_reason)) is not None:
            return reason
        # Not all servers have a reason of its own for calls.
        if self._draft.calls:
            return StopReason.STOP_REASON_TOOL_USE
        return StopReason.STOP_REASON_END_TURN


def _tool(tool: ToolDefinition) -> dict[str, Any]:
    # Not strict, which here is what holds where nothing is said.
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": object_schema(tool.parameters),
    }
    return {"type": "function", "function": function}


def _messages(turn: Turn, *, compatible: bool) -> Iterator[dict[str, Any]]:
    if not turn.is_own:
        yield from _foreign(turn, compatible=compatible)
        return
    message: dict[str, Any] = {"role": "assistant"}
    if turn.texts:
        message["content"] = "\n\n".join(turn.texts)
    if turn.calls:
        message["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in turn.calls
        ]
    if turn.texts or turn.calls:
        yield message
    for call in turn.calls:
        yield {"role": "tool", "tool_call_id": call.call_id, "content": call.output}


def _foreign(turn: Turn, *, compatible: bool) -> Iterator[dict[str, Any]]:
    """Renders what others than the assistant say."""
    if not turn.content:
        return
    is_system = turn.role == Role.ROLE_SYSTEM
    if len(turn.texts) < len(turn.content):
        # Pictures and files only go with the words of users.
        marked, role = is_system, "user"
    else:
        marked = is_system and compatible
        role = "system" if is_system and not compatible else "user"
    parts = [_part(block, marked=marked) for block in turn.content]
    if all(part["type"] == "text" for part in parts):
        # Not all servers take a list.
        yield {"role": role, "content": "\n\n".join(part["text"] for part in parts)}
    else:
        yield {"role": role, "content": parts}


def _part(block: ContentBlock, *, marked: bool) -> dict[str, Any]:
    match block.WhichOneof("block"):
        case "text":
            text = block.text.text
            return {"type": "text", "text": mark_system(text) if marked else text}
        case "image":
            return {"type": "image_url", "image_url": {"url": address(block.image)}}
    file = block.file
    if (text_file := inline(file)) is not None:
        return {"type": "text", "text": text_file}
    if file.url:
        # There is no other way to name one here.
        return {"type": "text", "text": f'<file name="{file.name}" url="{file.url}" />'}
    content = {"filename": file.name or "file", "file_data": address(file)}
    return {"type": "file", "file": content}
