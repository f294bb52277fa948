"""How an assistant hears others: what they say, as text that names who speaks.

The wire formats of models know one user and one assistant. What other agents and named users say is
therefore set in tags, and nobody's words can open or close one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from callboard.v1.message_pb2 import ContentBlock, Message, Role, Text, ToolCall, ToolResult

SUMMARY_TAG = "conversation_summary"
NOTICE_TAG = "notice"
SYSTEM_TAG = "system_message"
"""For wire formats in which a conversation holds no instructions."""

_TAGS = "|".join(("agent", "user", "tool_call", "tool_result", SUMMARY_TAG, NOTICE_TAG, SYSTEM_TAG))
# Also at the end of a block: the next one may go on with it.
_TAG = re.compile(rf"<(?=\s*/?\s*(?:(?:{_TAGS})\b|\w*\Z))", re.I)
_TAGGED = re.compile(rf"<({_TAGS})\b[^>]*>(.*)</\1>", re.S)
_UNSAFE = {"&": "&amp;", '"': "&quot;", "<": "&lt;", ">": "&gt;"}

Blocks = list[ContentBlock]


def said_by_agent(message: Message, results: Iterable[Message] = ()) -> Message | None:
    """Returns another agent's turn with its tool exchanges; None where nothing of it shows."""
    by_call = {
        block.tool_result.tool_call_id: block.tool_result
        for each in results
        for block in each.content
    }

    def show(block: ContentBlock) -> ContentBlock | None:
        if not block.HasField("tool_call"):
            return _show(block)
        call = block.tool_call
        return _text(_exchange(call, by_call.get(call.tool_call_id)))

    content = _tagged("agent", message.author, _each(show, message))
    return _heard(message, Role.ROLE_USER, content)


def said_by_user(message: Message) -> Message | None:
    """Returns what a user or the server said; None where nothing of it shows."""
    content = _each(_show, message)
    if message.notice_id:
        content = _tagged(NOTICE_TAG, "", content)
    elif message.role == Role.ROLE_USER and message.author:
        content = _tagged("user", message.author, content)
    return _heard(message, message.role, content)


def summarised(summary: Message) -> Message | None:
    """Returns a summary as the beginning of a conversation; None where it says nothing."""
    content = _tagged(SUMMARY_TAG, "", _each(_show, summary))
    heard = _heard(summary, Role.ROLE_USER, content)
    if heard is not None:
        # It is nothing that its run was given, or said.
        heard.ClearField("run_id")
    return heard


def parted(text: str) -> tuple[str, str]:
    """Parts the words of a message that a model is sent from their tag; that may be empty."""
    found = _TAGGED.fullmatch(text)
    return (found[1], found[2]) if found else ("", text)


def _heard(
    message: Message, role: Role.ValueType, content: Sequence[ContentBlock]
) -> Message | None:
    if not content:
        return None
    heard = Message(
        message_id=message.message_id,
        role=role,
        author=message.author,
        run_id=message.run_id,
        notice_id=message.notice_id,
        content=content,
    )
    if message.HasField("create_time"):
        heard.create_time.CopyFrom(message.create_time)
    return heard


def _each(show: Callable[[ContentBlock], ContentBlock | None], message: Message) -> Blocks:
    return [shown for block in message.content if (shown := show(block)) is not None]


def _show(block: ContentBlock) -> ContentBlock | None:
    """Returns what anyone may see of a block that another says."""
    if block.HasField("text"):
        return _text(_plain(block.text.text)) if block.text.text else None
    return block if block.HasField("image") or block.HasField("file") else None


def _tagged(tag: str, name: str, content: Blocks) -> Blocks:
    if not content:
        return content
    attribute = f' name="{_attribute(name)}"' if name else ""
    return _after(f"</{tag}>", _before(f"<{tag}{attribute}>", content))


def _before(text: str, content: Blocks) -> Blocks:
    if content[0].HasField("text"):
        return [_text(text + content[0].text.text), *content[1:]]
    return [_text(text), *content]


def _after(text: str, content: Blocks) -> Blocks:
    if content[-1].HasField("text"):
        return [*content[:-1], _text(content[-1].text.text + text)]
    return [*content, _text(text)]


def _text(text: str) -> ContentBlock:
    return ContentBlock(text=Text(text=text))


def _exchange(call: ToolCall, result: ToolResult | None) -> str:
    name = _attribute(call.name)
    text = f'\n<tool_call name="{name}">{_plain(call.arguments_json)}</tool_call>'
    if result is not None:
        error = ' error="true"' if result.is_error else ""
        text += f'\n<tool_result name="{name}"{error}>{_plain(result.text)}</tool_result>'
    return text


def _plain(text: str) -> str:
    """Takes from a text what would pass for a tag of this module."""
    return _TAG.sub("&lt;", text)


def _attribute(name: str) -> str:
    name = "".join(_UNSAFE.get(letter, letter) for letter in name)
    return " ".join(name.split())
