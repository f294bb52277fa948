"""The offline model: answers by a table of patterns, not by understanding.

It drives demos and tests without a key. The same conversation always gets the same answer. What
fits no rule is answered with examples of what would; a notice about a job is told as it is.
`callboard_server.models.rules` describes the table.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any
from uuid import uuid4

from callboard.v1.message_pb2 import (
    ContentBlock,
    Message,
    Role,
    StopReason,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from callboard_server.log.voices import parted
from callboard_server.models.base import (
    Answer,
    ModelRequest,
    Piece,
    TextPiece,
    ToolArgumentsPiece,
)
from callboard_server.models.rules import Rule

_WORD = re.compile(r"\s*\S+|\s+\Z")


@dataclass(slots=True)
class _Reply:
    """An answer in the making."""

    says: list[str] = field(default_factory=list)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def apply(self, rule: Rule, values: dict[str, object]) -> None:
        if answer := rule.fill_answer(values):
            self.says.append(answer)
        self.calls += [(call.tool, call.fill(values)) for call in rule.call]

    def content(self) -> list[ContentBlock]:
        text = "\n".join(self.says).strip()
        blocks = [ContentBlock(text=Text(text=text))] if text else []
        for name, arguments in self.calls:
            call = ToolCall(
                # Random, for it must be unique in a thread of which only a view is known here.
                tool_call_id=f"call_{uuid4().hex}",
                name=name,
                arguments_json=json.dumps(arguments, ensure_ascii=False),
            )
            blocks.append(ContentBlock(tool_call=call))
        return blocks


class OfflineModel:
    """Answers by the rules of a table."""

    def __init__(self, name: str, rules: Sequence[Rule]) -> None:
        self.name = name
        self._rules = rules

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | Answer, None]:
        content = self._reply(request.messages).content()
        for index, block in enumerate(content):
            if block.HasField("tool_call"):
                yield ToolArgumentsPiece(index, block.tool_call.arguments_json)
                continue
            for word in _WORD.findall(block.text.text):
                yield TextPiece(index, word)
                # As a real stream does, lets others run between two pieces.
                await asyncio.sleep(0)
        calls = any(block.HasField("tool_call") for block in content)
        stop = StopReason.STOP_REASON_TOOL_USE if calls else StopReason.STOP_REASON_END_TURN
        yield Answer(content, Usage(model_calls=1), stop)

    def _reply(self, messages: Sequence[Message]) -> _Reply:
        """Answers what came after the last answer: results, notices and the last user text."""
        reply = _Reply()
        new = _since_answer(messages)
        asked = _texts(_since_answer(messages, final=True))
        results = [result for message in new for result in _results(message)]
        for name, group in groupby(results, key=lambda result: result.name):
            self._answer_results(reply, name, list(group), asked)
        reply.says += [_notice(message) for message in new if message.notice_id]
        texts = _texts(new)
        if texts or not (reply.says or reply.calls):
            # Nothing new: the last answer was cut off, so what was asked is still open.
            self._answer_text(reply, (texts or asked or [""])[-1])
        return reply

    def _answer_text(self, reply: _Reply, text: str) -> None:
        for rule in self._rules:
            if not rule.after and (groups := rule.match([text])) is not None:
                return reply.apply(rule, {**groups})
        reply.says.append(self._help())
        return None

    def _answer_results(
        self, reply: _Reply, name: str, results: Sequence[ToolResult], asked: Sequence[str]
    ) -> None:
        for rule in self._rules:
            if rule.after == name and (groups := rule.match(asked)) is not None:
                break
        else:
            reply.says += [result.text for result in results]
            return
        for result in results:
            if result.is_error:
                reply.says.append(result.text)
                continue
            entries = rule.entries(result.text)
            for entry in entries:
                reply.apply(rule, {**groups, "result": entry})
            if not entries:
                reply.says.append(rule.empty)

    def _help(self) -> str:
        examples = [f"- {rule.example}" for rule in self._rules if rule.example and not rule.after]
        if not examples:
            return "I answer by a table, and mine is empty."
        lines = ["I answer by a table and understand no other words. Say, for example:", *examples]
        return "\n".join(lines)


def _since_answer(messages: Sequence[Message], *, final: bool = False) -> Sequence[Message]:
    """Returns the messages after the assistant's last one, or its last one without tool calls."""
    for position in range(len(messages) - 1, -1, -1):
        message = messages[position]
        calls = any(block.HasField("tool_call") for block in message.content)
        ends = not (calls or message.incomplete) if final else True
        if message.role == Role.ROLE_ASSISTANT and ends:
            return messages[position + 1 :]
    return messages


def _texts(messages: Sequence[Message]) -> list[str]:
    """Returns what users said, and neither other agents nor the server."""
    said = (m for m in messages if m.role == Role.ROLE_USER and not m.notice_id)
    parts = [parted(_text(message)) for message in said]
    return [words for tag, words in parts if tag in ("", "user")]


def _text(message: Message) -> str:
    return "\n".join(block.text.text for block in message.content if block.HasField("text"))


def _notice(message: Message) -> str:
    _, words = parted(_text(message))
    return words


def _results(message: Message) -> list[ToolResult]:
    return [block.tool_result for block in message.content if block.HasField("tool_result")]
