"""The context: what an agent sees of its run, and what it can do."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload
from uuid import NAMESPACE_OID, uuid5

from google.protobuf.struct_pb2 import Struct
from pydantic_core import to_json

from callboard.structs import to_dict, to_struct
from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.event_pb2 import Action, ActionResponse, Event, ToolStarted
from callboard.v1.lifecycle_pb2 import WaitingFor
from callboard.v1.message_pb2 import (
    ContentBlock,
    Message,
    Role,
    Text,
    ToolCall,
    ToolResult,
)
from callboard.v1.run_pb2 import Run
from callboard_server.agents.errors import AgentError, NoAnswer
from callboard_server.agents.steps import current_path, entered, entered_anew
from callboard_server.agents.threads import in_thread
from callboard_server.log.view import Others, View
from callboard_server.schemas import schema_problem

if TYPE_CHECKING:
    from callboard import AsyncClient
    from callboard_server.models.opening import Models

from callboard_server.agents.jobs import ContextJobs
from callboard_server.agents.work import Work
from callboard_server.agents.writers import MessageWriter, SummaryWriter

T = TypeVar("T")


class Context:
    """A run as its agent sees it. Valid until the agent returns."""

    def __init__(
        self,
        work: Work,
        *,
        author: str,
        config: dict[str, object],
        assistant_config: Struct,
        open_client: Callable[[], AsyncClient],
        workspace: Path,
        models: Models,
    ) -> None:
        self._work = work
        self._occurrences: Counter[tuple[str, ...]] = Counter()
        """How often each step was met so far, by path."""
        self._met: set[tuple[str, ...]] = set()
        """The paths of the steps that were met."""
        self._stopping = asyncio.Event()
        self.author = author
        """The name of the assistant: signs its messages."""
        self.config = config
        """The configuration in effect: the run's laid over the assistant's."""
        self._assistant_config = assistant_config
        self.models = models
        """The models that this server can call."""
        self._open_client = open_client
        self._workspace = workspace

    # What the run is

    @property
    def run(self) -> Run:
        """The run, as it was when it was claimed."""
        return self._work.run

    @property
    def thread_id(self) -> str:
        return self.run.thread_id

    @property
    def session_id(self) -> str:
        return self.run.session_id

    @property
    def instructions(self) -> str:
        """Instructions that were added for this run alone."""
        return self.run.additional_instructions

    @property
    def assistant_config(self) -> dict[str, object]:
        """The configuration of the assistant alone."""
        return to_dict(self._assistant_config)

    def now(self) -> float:
        """Returns the time in seconds since the epoch."""
        return self._work.now()

    @property
    def workspace(self) -> Path:
        """A directory that the agents of this session share on this server."""
        self._workspace.mkdir(parents=True, exist_ok=True)
        return self._workspace

    @cached_property
    def client(self) -> AsyncClient:
        """The whole API of this server, in process."""
        return self._open_client()

    @cached_property
    def jobs(self) -> ContextJobs:
        """Launches jobs below this thread, and looks after them."""
        return ContextJobs(self.client, self._work)

    @property
    def stopping(self) -> bool:
        """Whether the run was asked to stop."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Tells code in threads that the run was asked to stop. The engine calls this."""
        self._stopping.set()

    # The conversation

    async def view(self, others: Others = "final") -> View:
        """Returns the conversation as a model is sent it.

        Turns of this assistant have the role ASSISTANT and results of its tool calls TOOL; what
        other agents and named users say is text that names them.

        Args:
            others: What shows of other agents: "final" answers, or "full" runs with their tools.
        """
        return await self._work.view(others)

    async def messages(self) -> list[Message]:
        """Returns the messages of the conversation as they were said, oldest first."""
        return await self._work.all_messages()

    async def input(self) -> str:
        """Returns the text of the last message that the run was given.

        Where it was given none, of the last on the thread that is not an assistant's.
        """
        said = [m for m in await self.messages() if m.role in (Role.ROLE_USER, Role.ROLE_SYSTEM)]
        given = [message for message in said if message.run_id == self.run.run_id]
        last = (given or said or [Message()])[-1]
        return "".join(block.text.text for block in last.content)

    async def say(self, text: str) -> Message:
        """Adds a message of the assistant to the thread and returns it once it is durable."""
        content = [ContentBlock(text=Text(text=text))]
        return await self._work.commit_message(Message(role=Role.ROLE_ASSISTANT, content=content))

    async def correct(self, text: str) -> Message:
        """Tells the assistant's model what is wrong with its answer, in the conversation."""
        content = [ContentBlock(text=Text(text=text))]
        return await self._work.commit_message(
            Message(role=Role.ROLE_SYSTEM, author=self.author, content=content)
        )

    def write_message(self, context_sequence: int) -> MessageWriter:
        """Begins a message that streams while it is written.

        Args:
            context_sequence: How much of the log its writer has seen: that of the view.
        """
        return MessageWriter(self._work, context_sequence)

    def write_summary(self, context_sequence: int, through_sequence: int) -> SummaryWriter:
        """Begins a summary, from which the assistant's views start once it is committed.

        Args:
            context_sequence: How much of the log its writer has seen.
            through_sequence: The last event that it stands for: that of a cut of the view.
        """
        return SummaryWriter(self._work, self.author, context_sequence, through_sequence)

    # Values

    async def values(self) -> dict[str, Any]:
        """Returns the thread's values."""
        return to_dict(await self._work.values())

    async def merge_values(self, patch: Mapping[str, object]) -> dict[str, Any]:
        """Merges a JSON merge patch (RFC 7396) into the thread's values; None removes.

        Returns:
            The values as they are then.

        Raises:
            ValueError: The patch is no JSON, or holds a whole number beyond 2^53.
        """
        return to_dict(await self._work.merge_values(to_struct(patch)))

    # Telling others

    async def emit(self, name: str, data: object = None) -> None:
        """Writes an event of the agent's own. Does not wait for the commit, but keeps the order.

        Args:
            name: The agent's name for the kind of event.
            data: Anything that JSON can hold.
        """
        event = Event(ignorable=True)
        event.custom.name = name
        event.custom.data_json = to_json(data).decode()
        await self._work.post(event)

    async def progress(
        self, message: str, *, current: int | None = None, total: int | None = None
    ) -> None:
        """Says how far the run is.

        Args:
            message: What it is doing, for people.
            current: Steps done.
            total: Steps in all.
        """
        event = Event(ignorable=True)
        progress = event.run_progress.progress
        progress.message, progress.current, progress.total = message, current or 0, total or 0
        progress.time.GetCurrentTime()
        await self._work.post(event)

    # Steps and tools

    @overload
    async def step(
        self, name: str, function: Callable[..., Coroutine[Any, Any, T]], *arguments: object
    ) -> T: ...

    @overload
    async def step(self, name: str, function: Callable[..., T], *arguments: object) -> T: ...

    async def step(self, name: str, function: Callable[..., Any], *arguments: object) -> Any:
        """Does a piece of work once, also over crashes: a recorded result is not computed again.

        What the work writes to the thread stays when the step is recorded, and is void otherwise.

        Args:
            name: Names the step; the same name again is the next occurrence of it.
            function: The work, async or plain (which then runs in a thread).
            *arguments: Passed to the function.

        Returns:
            What the function returned, by way of JSON.
        """
        with self._step(name) as path:
            recorded = (await self._work.recorded()).steps.get(path)
            if recorded is None:
                result = await _call(function, *arguments)
                result_json = json.dumps(result, ensure_ascii=False)
        if recorded is not None:
            return json.loads(recorded.result_json)
        await self._work.commit(_step_event(path, result_json))
        return json.loads(result_json)

    @contextmanager
    def _step(self, name: str) -> Iterator[tuple[str, ...]]:
        """Makes code run in the next step of a name; gives the path of that."""
        parents = current_path()
        self._occurrences[*parents, name] += 1
        place = f"{name}#{self._occurrences[*parents, name]}"
        self._met.add((*parents, place))
        with entered(place):
            yield *parents, place

    async def check_steps(self) -> None:
        """Refuses the end of a run whose code went past steps that an earlier claim has recorded.

        Raises:
            AgentError: The code was changed since.
        """
        steps = (await self._work.recorded()).steps
        missed = [
            path
            for path in steps
            # Within a step that is recorded none is taken again.
            if path not in self._met
            and not {path[:depth] for depth in range(len(path))} & set(steps)
        ]
        if missed:
            names = ", ".join("/".join(path) for path in missed[:5])
            raise AgentError(
                f"The run has recorded steps that the agent's code no longer takes: {names}. "
                "Was the code changed while the run was under way?",
                reason=ErrorReason.ERROR_REASON_AGENT_CHANGED,
            )

    # Waiting

    async def sleep(self, seconds: float) -> None:
        """Waits without holding a slot or the thread, also over restarts of the server.

        Args:
            seconds: How long.
        """
        with self._step("sleep") as path:
            recorded = (await self._work.recorded()).steps.get(path)
        until = self._work.now() + max(0.0, seconds)
        if recorded is not None:
            until = json.loads(recorded.result_json)
        waiting_for = WaitingFor(kind=WaitingFor.KIND_TIMER)
        waiting_for.until.FromMicroseconds(round(until * 1e6))
        new = [] if recorded is not None else [_step_event(path, json.dumps(until))]
        await self._work.wait(waiting_for, *new)

    async def ask(
        self,
        question: str,
        *,
        schema: Mapping[str, object] | None = None,
        deadline: float | None = None,
    ) -> Any:
        """Asks somebody outside and waits for the answer, without a slot, for as long as it takes.

        A tool that asks should be idempotent: the call of one that is not is closed as "outcome
        unknown" when the server restarts meanwhile.

        Args:
            question: For people.
            schema: JSON Schema that the answer must fit; any JSON will do when left out.
            deadline: Seconds after which the question closes; never when left out.

        Returns:
            The answer, as JSON has it.

        Raises:
            NoAnswer: The deadline passed.
            AgentError: The schema is none.
        """
        action = Action(kind=Action.KIND_QUESTION, question=question)
        if schema is not None:
            if problem := schema_problem(schema):
                raise AgentError(f"The schema of a question {problem}.")
            action.schema_json = to_json(schema).decode()
        with self._step("ask") as path:
            response = await self._ask(action, "/".join(path), deadline)
        return json.loads(response.answer_json)

    async def ask_about(self, call: ToolCall, kind: Action.Kind.ValueType) -> ActionResponse:
        """Asks for permission to run a tool, or for the result of one that the client runs.

        Args:
            call: The call.
            kind: KIND_TOOL_PERMISSION or KIND_CLIENT_TOOL.
        """
        action = Action(kind=kind, tool_call=call)
        return await self._ask(action, f"{Action.Kind.Name(kind)}/{call.tool_call_id}", None)

    async def _ask(self, action: Action, place: str, deadline: float | None) -> ActionResponse:
        # The same place of the same run has the same action, also after a crash.
        action.action_id = str(uuid5(NAMESPACE_OID, f"{self.run.run_id}/{place}"))
        action.author = self.author
        if deadline is not None:
            action.deadline.FromMicroseconds(round((self._work.now() + deadline) * 1e6))
        response = await self._work.ask(action)
        if response is None:
            raise NoAnswer("Nobody answered before the deadline.")
        return response

    async def gather(self, *work: Coroutine[Any, Any, T]) -> list[T]:
        """Does several things side by side, and waits for all; a failure cancels the others.

        The run gives its slot back when each of them waits or is done. Each has steps of its own.

        Args:
            *work: What to do.

        Returns:
            What they returned, in order.
        """
        with self._step("gather"):
            tasks: list[asyncio.Task[T]] = []
            branches = _Branches(self._work, len(work))
            try:
                async with asyncio.TaskGroup() as group:
                    for position, branch in enumerate(work):
                        tasks.append(group.create_task(self._branch(branches, position, branch)))
            except BaseExceptionGroup as failures:
                # Whoever runs the agent tells errors apart by type.
                raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _branch(self, branches: _Branches, position: int, work: Coroutine[Any, Any, T]) -> T:
        try:
            with entered(f"branch#{position}"):
                self._met.add(current_path())
                return await work
        finally:
            branches.end_one()

    # Tools

    async def started_tool(self, call: ToolCall) -> ToolStarted | None:
        """Returns the record of a tool call that the run has started, also under earlier claims."""
        return (await self._work.recorded()).tools_started.get(call.tool_call_id)

    async def tool_started(self, call: ToolCall, idempotent: bool) -> None:
        """Records, before a tool runs, that it will."""
        event = Event()
        event.tool_started.call.CopyFrom(call)
        event.tool_started.idempotent = idempotent
        await self._work.commit(event)

    @contextmanager
    def within(self, call: ToolCall) -> Iterator[None]:
        """Makes code run as a tool call: what it asks and launches is the call's, over crashes."""
        with entered_anew(f"{call.tool_call_id}#1"):
            yield

    async def tool_result(
        self, call: ToolCall, text: str, is_error: bool = False, outcome_unknown: bool = False
    ) -> Message:
        """Adds the result of a tool call to the thread."""
        result = ToolResult(
            tool_call_id=call.tool_call_id,
            name=call.name,
            text=text,
            is_error=is_error,
            outcome_unknown=outcome_unknown,
        )
        content = [ContentBlock(tool_result=result)]
        return await self._work.commit_message(Message(role=Role.ROLE_TOOL, content=content))


class _Branches:
    """Counts the branches of a gather: the code that began it is at work again with the last."""

    def __init__(self, work: Work, count: int) -> None:
        self._work = work
        self._left = count
        work.branch(max(count, 1) - 1)

    def end_one(self) -> None:
        self._left -= 1
        if self._left:
            self._work.branch(-1)


def _step_event(path: tuple[str, ...], result_json: str) -> Event:
    event = Event()
    name, _, occurrence = path[-1].rpartition("#")
    event.step_recorded.parents.extend(path[:-1])
    event.step_recorded.name, event.step_recorded.occurrence = name, int(occurrence)
    event.step_recorded.result_json = result_json
    return event


async def _call(function: Callable[..., Awaitable[T] | T], *arguments: object) -> T:
    if asyncio.iscoroutinefunction(function):
        awaited: T = await function(*arguments)
        return awaited
    result: Any = await in_thread(function, *arguments)
    returned: T = await result if asyncio.iscoroutine(result) else result
    return returned
