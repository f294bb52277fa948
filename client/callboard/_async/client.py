"""The asynchronous client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import grpc.aio

from callboard._async.actions import AsyncActions
from callboard._async.assistants import AsyncAssistants
from callboard._async.caller import AsyncCaller, Metadata
from callboard._async.jobs import AsyncJobs
from callboard._async.notices import AsyncNotices
from callboard._async.runs import AsyncRuns
from callboard._async.server import AsyncServer
from callboard._async.supervisors import AsyncSupervisor, AsyncSupervisorTools, home_of
from callboard._async.threads import AsyncThreads
from callboard._channel import OPTIONS, parse_target
from callboard.errors import AlreadyExists
from callboard.kit.definition import RESULT_CHARACTERS
from callboard.kit.dialects import NamesName


class AsyncClient:
    """An asynchronous client of one Callboard server.

    It holds one connection, which any number of calls and streams share. Calls whose repeat
    changes nothing (reading, waiting, cancelling, and creating, for which the client makes a
    request_id) are repeated while the server does not answer, within the timeout.

    Every method raises a subclass of `CallboardError` when its call fails, and ValueError where an
    argument cannot be sent.

    Example:
        async with callboard.AsyncClient("grpc://localhost:50051") as client:
            job = await client.jobs.launch("researcher", "Compare the two drafts.")
            [job] = await client.jobs.wait(job.job_id)
            print(callboard.text_of(job.outcome.result))

    Attributes:
        assistants: What can run, and how it is configured.
        threads: Conversations, their state and their log.
        runs: Starting, following and stopping runs.
        jobs: Launching, redirecting and watching delegated work.
        actions: What waits for an answer from outside, and answering it.
        notices: What threads are told about their jobs.
        server: The server itself.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        timeout: float | None = 30.0,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        credentials: grpc.ChannelCredentials | None = None,
        channel: grpc.aio.Channel | None = None,
    ) -> None:
        """Makes a client. The connection is made with the first call.

        Args:
            target: `grpc://host:port` or `host:port`; `grpcs://host:port` for TLS; `unix:/path`.
            timeout: The deadline of each call in seconds, repeats included. None: no deadline,
                and repeats for ever. Streams have none, and waiting comes on top.
            metadata: Sent with every call, for example `[("authorization", "Bearer ...")]`.
            credentials: For TLS; those of the system when left out with `grpcs://`.
            channel: Used instead of target and credentials, and not closed by the client.

        Raises:
            ValueError: If the target has an unknown scheme, or credentials but no TLS.
        """
        self._owned_channel: grpc.aio.Channel | None = None
        if channel is None:
            address, credentials = parse_target(target, credentials)
            if credentials is None:
                channel = grpc.aio.insecure_channel(address, options=OPTIONS)
            else:
                channel = grpc.aio.secure_channel(address, credentials, options=OPTIONS)
            self._owned_channel = channel
        self._channel = channel
        self._metadata: Metadata = tuple(metadata)
        caller = AsyncCaller(timeout, self._metadata)
        self.assistants = AsyncAssistants(channel, caller)
        self.threads = AsyncThreads(channel, caller)
        self.runs = AsyncRuns(channel, caller)
        self.jobs = AsyncJobs(channel, caller)
        self.actions = AsyncActions(channel, caller)
        self.notices = AsyncNotices(channel, caller)
        self.server = AsyncServer(channel, caller)

    def with_timeout(self, timeout: float | None) -> AsyncClient:
        """The same client with another deadline, as for a single call.

        Args:
            timeout: The deadline of each call in seconds; None for none.

        Returns:
            A client on the same connection. It need not be closed.

        Example:
            job = await client.with_timeout(2.0).jobs.get(job_id)
        """
        return AsyncClient(timeout=timeout, metadata=self._metadata, channel=self._channel)

    async def supervisor(
        self,
        name: str,
        agents: Iterable[str] | Mapping[str, str] | None = None,
        *,
        names: NamesName = "callboard",
        result_characters: int = RESULT_CHARACTERS,
    ) -> AsyncSupervisor:
        """Gets the supervisor of a name, or makes it: a home thread for jobs, and tools for them.

        The jobs belong to the home. After a crash or on another machine the same name finds them.

        Args:
            name: A name of your own that says whose jobs these are, as "my-app/user-42".
            agents: The agents or assistants that it may give work to, or what each does by its
                name; all agents of the server when left out.
            names: The names that its tools go by: "callboard" or "deepagents".
            result_characters: How much of a job's result one answer of its tools holds.

        Returns:
            The supervisor. Several of one name share the home and its jobs.

        Raises:
            ValueError: If the name is empty, or there are no agents.

        Example:
            supervisor = await client.supervisor("my-app/user-42")
            text = await supervisor.tools.call("list_jobs")
        """
        thread_id = home_of(name)
        if agents is None:
            found = await self.assistants.list_agents()
            agents = {agent.name: agent.description for agent in found}
        tools = AsyncSupervisorTools(
            self,
            agents,
            parent_thread_id=thread_id,
            names=names,
            result_characters=result_characters,
        )
        with suppress(AlreadyExists):
            await self.threads.create(thread_id=thread_id, metadata={"supervisor": name})
        return AsyncSupervisor(name, thread_id, tools, self.notices)

    async def aclose(self) -> None:
        """Closes the connection. Open calls and streams of it end."""
        if self._owned_channel is not None:
            await self._owned_channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
