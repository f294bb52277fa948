# Generated from callboard/_async/supervisors.py by `make protos`: do not edit.
"""Supervisors outside of the server: tools for a model, and a home for the jobs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, cast, overload
from uuid import NAMESPACE_OID, uuid5

from callboard._enums import DeliveryName
from callboard._sync.kit import KitCalls
from callboard._sync.notices import Notices, NoticeStream
from callboard.kit import formats
from callboard.kit.answers import ToolAnswer
from callboard.kit.definition import RESULT_CHARACTERS, Kit, ToolDefinition
from callboard.kit.dialects import NamesName
from callboard.kit.known import Known
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import RunState

if TYPE_CHECKING:
    from anthropic.types import ToolParam
    from openai.types.chat import ChatCompletionFunctionToolParam
    from openai.types.responses import FunctionToolParam

    from callboard._sync.client import Client
    from callboard._sync.jobs import Jobs


class SupervisorTools:
    """Five tools by which a model launches, checks, updates, cancels and lists jobs.

    One definition in the formats of several frameworks, and one `call` that carries them out. It
    answers with text whatever happens, so that the model can mend what it did wrong.

    Example:
        tools = callboard.SupervisorTools(client, ["researcher", "coder"])
        answer = model.messages.create(tools=tools.anthropic(), system=tools.prompt, ...)
        for block in answer.content:
            if block.type == "tool_use":
                text = tools.call(block.name, block.input, call_id=block.id)

    Attributes:
        names: The names of the tools.
        prompt: A section for the system prompt: how to use them.
    """

    def __init__(
        self,
        client: Client,
        agents: Iterable[str] | Mapping[str, str],
        *,
        parent_thread_id: str | None = None,
        names: NamesName = "callboard",
        result_characters: int = RESULT_CHARACTERS,
    ) -> None:
        """Puts the tools together. Calls nothing yet.

        Args:
            client: The client. Its timeout bounds how long a call may take.
            agents: The agents or assistants that the model may give work to, or what each does by
                its name.
            parent_thread_id: The thread that the jobs belong to: the model sees its jobs and no
                others. Left out, each job is a session of its own, and the model sees all jobs of
                the server. See also `client.supervisor`.
            names: The names that tools and arguments go by: "callboard", or "deepagents" for those
                of that package.
            result_characters: How much of a job's result one answer holds; the model is told how to
                get the rest.

        Raises:
            ValueError: If there are no agents, or no such names.
        """
        self._kit = Kit(agents, names=names, result_characters=result_characters)
        self._jobs = client.jobs
        self._parent_thread_id = parent_thread_id
        self._known = Known()
        self.names = tuple(self._kit.tools)
        self.prompt = self._kit.prompt

    @property
    def definitions(self) -> Sequence[ToolDefinition]:
        """The tools, each with name, description and JSON Schema, for formats that are not here."""
        return list(self._kit.tools.values())

    def anthropic(self) -> list[ToolParam]:
        """The tools for `tools=` of Anthropic's Messages API."""
        return cast("list[ToolParam]", [formats.anthropic(tool) for tool in self.definitions])

    @overload
    def openai(self, *, api: Literal["responses"] = "responses") -> list[FunctionToolParam]: ...
    @overload
    def openai(self, *, api: Literal["chat"]) -> list[ChatCompletionFunctionToolParam]: ...
    def openai(
        self, *, api: Literal["responses", "chat"] = "responses"
    ) -> list[FunctionToolParam] | list[ChatCompletionFunctionToolParam]:
        """The tools for `tools=` of OpenAI's APIs, and of servers that speak like them.

        Args:
            api: "responses" for the Responses API, "chat" for Chat Completions.

        Raises:
            ValueError: If there is no such API.
        """
        if api == "chat":
            return cast(
                "list[ChatCompletionFunctionToolParam]",
                [formats.openai_chat(tool) for tool in self.definitions],
            )
        if api != "responses":
            raise ValueError(f'api: {api!r} is not one of "responses", "chat"')
        return cast("list[FunctionToolParam]", [formats.openai(tool) for tool in self.definitions])

    def functions(self) -> list[Callable[..., str]]:
        """The tools as functions, for frameworks that make tools of these.

        Each has the name, typed parameters and docstring of its tool, and returns text.
        """
        return [formats.described(self._function(tool), tool) for tool in self.definitions]

    def _function(self, tool: ToolDefinition) -> Callable[..., str]:
        def function(*positional: object, **named: object) -> str:
            return self.call(tool.name, formats.bound(tool, positional, named))

        return function

    def call(
        self,
        name: str,
        arguments: Mapping[str, object] | str | None = None,
        *,
        call_id: str | None = None,
    ) -> ToolAnswer:
        """Carries out a call as a model wrote it.

        Args:
            name: The name of the tool.
            arguments: The arguments: a dict, or the JSON text of an object.
            call_id: The id of the call in the conversation. A launch or update that is repeated
                with the same id and arguments, as after a crash, has its effect once.

        Returns:
            What to tell the model: JSON about the job, or what was wrong and what would be right.
            It is a `str` that also has `is_error`. Failures of the server are told, too: nothing is
            raised.
        """
        jobs = HomeJobs(self._jobs, self._parent_thread_id, call_id)
        calls = KitCalls(self._kit, jobs, self._parent_thread_id, self._known)
        return calls.call(name, arguments)


class Supervisor:
    """A supervisor with a home: a thread, found by its name, to which its jobs belong.

    Attributes:
        name: Its name.
        thread_id: Its home thread.
        tools: What its model can do.
    """

    def __init__(self, name: str, thread_id: str, tools: SupervisorTools, notices: Notices) -> None:
        """Made by `client.supervisor`."""
        self.name = name
        self.thread_id = thread_id
        self.tools = tools
        self._notices = notices

    def notices(self, *, follow: bool = True, max_downtime: float | None = 60.0) -> NoticeStream:
        """What it is told about its jobs: that one is over, and how, or that it needs an answer.

        First what nobody has read, oldest first, also from before the program was started; then
        live. Each notice is marked as read when the next one is asked for. Two programs with one
        home may both get a notice, until one of them has marked it.

        Args:
            follow: Whether to wait for further ones when nothing is unread any more.
            max_downtime: For how many seconds a server that does not answer is tried; None for
                ever.

        Returns:
            A stream of notices, which is a context manager.

        Example:
            with supervisor.notices() as notices:
                for notice in notices:
                    messages.append({"role": "user", "content": notice.text})
                    ...
        """
        return self._notices.stream(self.thread_id, follow=follow, max_downtime=max_downtime)


def home_of(name: str) -> str:
    """The id of the home thread of a supervisor: the same wherever and whenever it is asked for.

    Raises:
        ValueError: If the name is empty.
    """
    if not name.strip():
        raise ValueError("name: a supervisor needs one")
    return str(uuid5(NAMESPACE_OID, f"callboard.supervisor/{name}"))


class HomeJobs:
    """The jobs below one thread, or all, by a client's means. It is an `KitJobs`."""

    def __init__(self, jobs: Jobs, parent_thread_id: str | None, call_id: str | None) -> None:
        self._jobs = jobs
        self._parent_thread_id = parent_thread_id
        self._call_id = call_id

    def launch(self, agent: str, task: str) -> Job:
        """Launches a job; a repeat is the same launch."""
        request_id = self._request_id("launch", agent, task)
        return self._jobs.launch(
            agent, task, parent_thread_id=self._parent_thread_id, request_id=request_id
        )

    def get(self, job_id: str) -> Job:
        """Fetches a job."""
        return self._jobs.get(job_id)

    def update(self, job_id: str, instructions: str, *, delivery: DeliveryName) -> Job:
        """Gives a job new instructions; a repeat is the same update."""
        request_id = self._request_id("update", job_id, instructions, delivery)
        return self._jobs.update(job_id, instructions, delivery=delivery, request_id=request_id)

    def cancel(self, job_id: str) -> Job:
        """Cancels a job, of which its parent is told nothing then."""
        return self._jobs.cancel(job_id, parent_thread_id=self._parent_thread_id)

    def list(self, *, states: Sequence[RunState.ValueType] = ()) -> Sequence[Job]:
        """Lists all of them, newest first, without results."""
        found = self._jobs.list(
            parent_thread_id=self._parent_thread_id, states=states, view="basic", page_size=1000
        )
        return [job for job in found]

    def _request_id(self, *what: str) -> str | None:
        """Names a call by its id and its content: some models count their calls from 0 anew."""
        if self._call_id is None:
            return None
        told = json.dumps([self._parent_thread_id, self._call_id, *what])
        return str(uuid5(NAMESPACE_OID, told))
