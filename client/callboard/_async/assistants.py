"""What can run, and how it is configured."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import grpc.aio
from google.protobuf.field_mask_pb2 import FieldMask

from callboard._async.caller import AsyncCaller
from callboard._requests import new_request_id, optional_struct
from callboard.v1.assistant_pb2 import (
    Agent,
    Assistant,
    CreateAssistantRequest,
    DeleteAssistantRequest,
    GetAgentRequest,
    GetAssistantRequest,
    ListAgentsRequest,
    ListAssistantsRequest,
    ListAssistantVersionsRequest,
    SetCurrentVersionRequest,
    UpdateAssistantRequest,
)
from callboard.v1.assistant_pb2_grpc import AssistantServiceStub


class AsyncAssistants:
    """Agents and assistants: `client.assistants`.

    An agent is code that the server can run; an assistant is an agent with a configuration. Where
    an assistant's id is asked for, an agent's name will do and means its default assistant.
    """

    def __init__(self, channel: grpc.aio.Channel, caller: AsyncCaller) -> None:
        """Made by the client."""
        self._stub = AssistantServiceStub(channel)
        self._caller = caller

    async def list_agents(self) -> Sequence[Agent]:
        """What the server can run, by name."""
        response = await self._caller.repeatable(self._stub.ListAgents, ListAgentsRequest())
        return response.agents

    async def get_agent(self, name: str) -> Agent:
        """Fetches an agent.

        Args:
            name: The agent's name.

        Returns:
            The agent: description, configuration schema, tools, whether it can be reached.

        Raises:
            NotFound: AGENT_NOT_FOUND; `metadata["agents"]` lists those that exist.
        """
        return await self._caller.repeatable(self._stub.GetAgent, GetAgentRequest(name=name))

    async def create(
        self,
        agent: str,
        *,
        name: str | None = None,
        description: str | None = None,
        config: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        assistant_id: str | None = None,
        request_id: str | None = None,
    ) -> Assistant:
        """Creates an assistant.

        Args:
            agent: The name of the agent.
            name: The name to show and to sign messages with; the agent's name when left out.
            description: What it is for.
            config: The configuration, as the agent's schema has it.
            metadata: Free data of your own.
            assistant_id: A UUID to give it, which none had before; made by the server when left
                out.
            request_id: Makes repeats of your own safe; made by the client when left out.

        Returns:
            The assistant, with version 1.

        Raises:
            NotFound: AGENT_NOT_FOUND.
            InvalidArgument: FIELD_INVALID, where the configuration does not fit the schema.
            AlreadyExists: ASSISTANT_ALREADY_EXISTS or REQUEST_ID_REUSED.
        """
        request = CreateAssistantRequest(
            assistant_id=assistant_id or "",
            agent=agent,
            name=name or "",
            description=description or "",
            config=optional_struct(config, "config"),
            metadata=optional_struct(metadata, "metadata"),
            request_id=request_id or new_request_id(),
        )
        return await self._caller.repeatable(self._stub.CreateAssistant, request)

    async def get(self, assistant_id: str, *, version: int | None = None) -> Assistant:
        """Fetches an assistant.

        Args:
            assistant_id: The assistant, or an agent's name.
            version: Which version; the current one when left out.

        Returns:
            The assistant in that version.

        Raises:
            NotFound: ASSISTANT_NOT_FOUND or ASSISTANT_VERSION_NOT_FOUND.
        """
        request = GetAssistantRequest(assistant_id=assistant_id, version=version or 0)
        return await self._caller.repeatable(self._stub.GetAssistant, request)

    def list(
        self,
        *,
        agent: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        default: bool | None = None,
        page_size: int = 0,
    ) -> AsyncIterator[Assistant]:
        """Lists assistants in their current versions, newest first, and the default ones last.

        Args:
            agent: Only those of this agent.
            metadata: Only those whose metadata holds all of this.
            default: True for default assistants only, False for the others only.
            page_size: How many to fetch at a time, up to 1,000; 0 leaves it to the server.

        Returns:
            An iterator over all of them.
        """
        request = ListAssistantsRequest(
            agent=agent or "",
            metadata=optional_struct(metadata, "metadata"),
            default=default,
            page_size=page_size,
        )
        return self._caller.pages(self._stub.ListAssistants, request, lambda page: page.assistants)

    async def update(
        self,
        assistant_id: str,
        *,
        name: str | None = None,
        description: str | None = None,
        config: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        update_mask: Sequence[str] | None = None,
        etag: str | None = None,
        request_id: str | None = None,
    ) -> Assistant:
        """Changes an assistant by making a new version, which becomes the current one.

        Runs keep the version that they were created with. What changes nothing makes no version.

        Args:
            assistant_id: The assistant.
            name: The new name.
            description: The new description.
            config: The new configuration, in place of the whole one.
            metadata: The new metadata, in place of all of it.
            update_mask: What to change; all that is given here when left out. A path such as
                `config.model` changes that key alone, and removes it where `config` is without it.
            etag: Where given, the change is made only if the assistant still has this etag.
            request_id: Makes repeats of your own safe; made by the client when left out.

        Returns:
            The assistant in its new version.

        Raises:
            NotFound: ASSISTANT_NOT_FOUND; AGENT_NOT_FOUND, where the configuration changes and the
                agent is gone.
            FailedPrecondition: ASSISTANT_READ_ONLY, for an agent's default assistant.
            Conflict: ETAG_MISMATCH.
            InvalidArgument: FIELD_INVALID, also where the configuration does not fit the schema.
            AlreadyExists: REQUEST_ID_REUSED.
        """
        given = {
            "name": name,
            "description": description,
            "config": config,
            "metadata": metadata,
        }
        if update_mask is None:
            update_mask = [field for field, value in given.items() if value is not None]
        request = UpdateAssistantRequest(
            assistant_id=assistant_id,
            assistant=Assistant(
                name=name or "",
                description=description or "",
                config=optional_struct(config, "config"),
                metadata=optional_struct(metadata, "metadata"),
            ),
            update_mask=FieldMask(paths=update_mask),
            etag=etag or "",
            request_id=request_id or new_request_id(),
        )
        return await self._caller.repeatable(self._stub.UpdateAssistant, request)

    async def delete(self, assistant_id: str, *, etag: str | None = None) -> None:
        """Deletes an assistant and its versions.

        Nothing begins with it any more. Runs that have it go on to their end, also those that are
        queued or wait. Its id is not used again.

        Args:
            assistant_id: The assistant.
            etag: Where given, it is deleted only if it still has this etag.

        Raises:
            NotFound: ASSISTANT_NOT_FOUND, also where it was deleted before.
            FailedPrecondition: ASSISTANT_READ_ONLY, for an agent's default assistant.
            Conflict: ETAG_MISMATCH.
        """
        request = DeleteAssistantRequest(assistant_id=assistant_id, etag=etag or "")
        await self._caller.once(self._stub.DeleteAssistant, request)

    def versions(self, assistant_id: str, *, page_size: int = 0) -> AsyncIterator[Assistant]:
        """Lists the versions of an assistant, newest first.

        Args:
            assistant_id: The assistant.
            page_size: How many to fetch at a time, up to 1,000; 0 leaves it to the server.

        Returns:
            An iterator over all of them, which raises NotFound (ASSISTANT_NOT_FOUND).
        """
        request = ListAssistantVersionsRequest(assistant_id=assistant_id, page_size=page_size)
        return self._caller.pages(
            self._stub.ListAssistantVersions, request, lambda page: page.versions
        )

    async def set_current_version(
        self, assistant_id: str, version: int, *, etag: str | None = None
    ) -> Assistant:
        """Makes another version the current one, and so restores all of it.

        The versions stay as they are, and the next update makes one that follows the highest.

        Args:
            assistant_id: The assistant.
            version: The version.
            etag: Where given, it is made current only if the assistant still has this etag.

        Returns:
            The assistant in that version.

        Raises:
            NotFound: ASSISTANT_NOT_FOUND or ASSISTANT_VERSION_NOT_FOUND.
            FailedPrecondition: ASSISTANT_READ_ONLY, for an agent's default assistant.
            Conflict: ETAG_MISMATCH.
        """
        request = SetCurrentVersionRequest(
            assistant_id=assistant_id, version=version, etag=etag or ""
        )
        return await self._caller.repeatable(self._stub.SetCurrentVersion, request)
