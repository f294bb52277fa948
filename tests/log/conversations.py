"""Logs of one thread in the making."""

from __future__ import annotations

from callboard.v1.event_pb2 import Event
from callboard.v1.message_pb2 import (
    ContentBlock,
    Message,
    Role,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from callboard_server.log.conversation import Conversation
from callboard_server.log.view import (
    Others,
    View,
    Viewer,
    inheritance_of,
    messages_of,
    view_of,
)

USER, ASSISTANT = Role.ROLE_USER, Role.ROLE_ASSISTANT
TOOL, SYSTEM = Role.ROLE_TOOL, Role.ROLE_SYSTEM


class Log:
    """A log, and the conversation that it comes to."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.conversation = Conversation()
        self.assistants: dict[str, str] = {}
        """Of each run, the assistant, which is also its name."""

    @property
    def head(self) -> int:
        return len(self.events)

    def add(self, event: Event, run: str = "", epoch: int = 0) -> int:
        """Appends an event and returns its sequence."""
        event.sequence = self.head + 1
        event.run_id, event.claim_epoch = run, epoch
        self.events.append(event)
        self.conversation.apply(event)
        return event.sequence

    def create(self, run: str, assistant: str) -> int:
        event = Event()
        event.run_created.assistant_id = self.assistants[run] = assistant
        return self.add(event, run)

    def start(self, run: str, epoch: int = 1) -> int:
        event = Event()
        event.run_started.worker_id = "w"
        return self.add(event, run, epoch)

    def finish(self, run: str, epoch: int = 1) -> int:
        event = Event()
        event.run_finished.SetInParent()
        return self.add(event, run, epoch)

    def roll_back(self, run: str) -> int:
        event = Event()
        event.runs_rolled_back.run_ids.append(run)
        return self.add(event)

    def void(self, run: str, epoch: int) -> int:
        event = Event()
        event.claim_voided.claim_epoch = epoch
        return self.add(event, run, epoch + 1)

    def read_notices(self, *notices: str) -> int:
        event = Event()
        event.notices_read.notice_ids.extend(notices)
        return self.add(event)

    def compact(self, summary: str, through: int, assistant: str = "", run: str = "") -> int:
        event = Event()
        compacted = event.context_compacted
        compacted.summary.CopyFrom(message(USER, summary))
        compacted.through_sequence, compacted.assistant_id = through, assistant
        return self.add(event, run, 1 if run else 0)

    def add_message(self, added: Message, run: str = "", epoch: int = 0) -> int:
        event = Event()
        event.message_added.message.CopyFrom(added)
        event.message_added.message.run_id = run
        return self.add(event, run, epoch)

    def ask(self, text: str, run: str = "", author: str = "") -> int:
        """A user says something: to a run, or to the thread."""
        return self.add_message(message(USER, text, author=author), run)

    def begin(self, run: str, assistant: str, text: str) -> int:
        """A run is created, gets its input and starts."""
        self.create(run, assistant)
        self.ask(text, run)
        return self.start(run)

    def answer(self, run: str, *parts: str | ContentBlock, seen: int | None = None) -> int:
        """A run's model answers; it had seen all of the log, where nothing else is said."""
        said = message(ASSISTANT, *parts, author=self.assistants.get(run, ""))
        said.context_sequence = self.head if seen is None else seen
        return self.add_message(said, run, epoch=1)

    def say(self, run: str, text: str) -> int:
        """A run says something without a model."""
        said = message(ASSISTANT, text, author=self.assistants.get(run, ""))
        return self.add_message(said, run, epoch=1)

    def result(self, call_id: str, text: str, run: str = "") -> int:
        return self.add_message(message(TOOL, result(call_id, text)), run, epoch=1 if run else 0)

    def view(self, run: str, others: Others = "final") -> View:
        return view_of(self.conversation, self._viewer(run), self.head, others)

    def messages(self, run: str) -> list[Message]:
        return messages_of(self.conversation, self._viewer(run))

    def _viewer(self, run: str) -> Viewer:
        assistant = self.assistants.get(run, "nobody")
        return Viewer(run, assistant, assistant)

    def fork(self, assistant: str) -> Log:
        """The log of a thread that begins with what an assistant, or nobody, sees of this one."""
        summary, messages = inheritance_of(
            self.conversation, Viewer("", assistant_id=assistant, name=assistant)
        )
        fork = Log()
        if summary is not None:
            event = Event()
            event.context_compacted.summary.CopyFrom(summary)
            fork.add(event)
        for each in messages:
            each.ClearField("context_sequence")
            each.ClearField("notice_id")
            fork.add_message(each)
        return fork

    def sent_to(self, run: str, others: Others = "final") -> list[str]:
        """What a model is sent, in short."""
        return [shown(each) for each in self.view(run, others).messages]

    def seen_by(self, run: str) -> list[str]:
        """What a function agent sees, in short."""
        return [shown(each) for each in self.messages(run)]


def message(role: Role.ValueType, *parts: str | ContentBlock, author: str = "") -> Message:
    blocks = [
        ContentBlock(text=Text(text=part)) if isinstance(part, str) else part for part in parts
    ]
    return Message(role=role, author=author, content=blocks)


def call(call_id: str, name: str = "look") -> ContentBlock:
    made = ToolCall(tool_call_id=call_id, name=name, arguments_json=f'{{"at": "{call_id}"}}')
    return ContentBlock(tool_call=made)


def result(call_id: str, text: str, name: str = "look") -> ContentBlock:
    return ContentBlock(tool_result=ToolResult(tool_call_id=call_id, name=name, text=text))


def thinking(text: str) -> ContentBlock:
    return ContentBlock(thinking=Thinking(text=text))


def shown(message: Message) -> str:
    """The texts of a message and its results, with the role where it is not USER."""
    parts = [block.text.text or block.tool_result.text for block in message.content]
    role = Role.Name(message.role).removeprefix("ROLE_").lower()
    prefix = "" if message.role == USER else f"{role}: "
    return prefix + "".join(parts)
