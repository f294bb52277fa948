"""Messages of a conversation, from and to what is handy in Python."""

from collections.abc import Mapping, Sequence
from typing import Any, Required, TypeAlias, TypedDict, cast

from callboard._enums import RoleName, enum_value
from callboard.v1.message_pb2 import ContentBlock, Message, Role, Text


class MessageDict(TypedDict, total=False):
    """A message as a dict, for example `{"role": "user", "content": "Good morning."}`."""

    role: Required[RoleName]
    """Who speaks."""
    content: Required[str | Sequence[ContentBlock]]
    """What is said: text, or content blocks."""
    author: str
    """The name of who speaks."""
    message_id: str
    """Identifies the message, a UUID; made by the server when left out."""


MessageLike: TypeAlias = str | MessageDict | Message
"""A message: text (of the user), a dict, or a `Message`."""


def to_messages(messages: MessageLike | Sequence[MessageLike], argument: str) -> list[Message]:
    """Makes messages of one or several.

    Raises:
        ValueError: If one of them is not a message; the text begins with the argument's name.
    """
    if isinstance(messages, (str, Mapping, Message)):
        return [_to_message(messages, argument)]
    return [_to_message(message, f"{argument}[{index}]") for index, message in enumerate(messages)]


def text_of(message: Message) -> str:
    """The text of a message: that of its text blocks, joined.

    Args:
        message: Any message, for example `job.outcome.result`.

    Returns:
        The text; empty where the message has none. Thinking, tool calls and files are left out.
    """
    return "".join(block.text.text for block in message.content if block.HasField("text"))


def _to_message(message: MessageLike, argument: str) -> Message:
    if isinstance(message, Message):
        return message
    if isinstance(message, str):
        return Message(role=Role.ROLE_USER, content=_to_blocks(message))
    if isinstance(message, Mapping):
        return _from_dict(cast("dict[str, Any]", message), argument)
    raise ValueError(f"{argument}: {type(message).__name__} is not a message")


def _from_dict(message: Mapping[str, Any], argument: str) -> Message:
    unknown = message.keys() - MessageDict.__annotations__.keys()
    missing = MessageDict.__required_keys__ - message.keys()
    if unknown or missing:
        raise ValueError(
            f'{argument}: a message has "role" and "content", and may have "author" and '
            f'"message_id"; here is {sorted(message)}'
        )
    return Message(
        role=enum_value(Role, message["role"], f"{argument}.role"),
        content=_to_blocks(message["content"]),
        author=message.get("author", ""),
        message_id=message.get("message_id", ""),
    )


def _to_blocks(content: str | Sequence[ContentBlock]) -> Sequence[ContentBlock]:
    return [ContentBlock(text=Text(text=content))] if isinstance(content, str) else content
