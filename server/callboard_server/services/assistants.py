"""AssistantService."""

from __future__ import annotations

import json

from google.protobuf.empty_pb2 import Empty

from callboard.structs import to_dict
from callboard.v1 import assistant_pb2 as pb
from callboard_server import errors
from callboard_server.agents.registry import AgentSpec
from callboard_server.engine.assistants import default_id
from callboard_server.engine.engine import Engine, Once, once
from callboard_server.ids import new_id
from callboard_server.rpc import Call
from callboard_server.services.masks import check_mask, masked
from callboard_server.services.paging import fitting, next_token, page_of, wider
from callboard_server.services.validation import Check
from callboard_server.store.base import AssistantRow, Page, Reader, Transaction

_NAME, _DESCRIPTION = 255, 10_000
_DEFAULTS = 1 << 63
"""The key of the first default assistant in page tokens: beyond any that the store gives."""


class AssistantServicer:
    """What can run and how it is configured."""

    descriptor = pb.DESCRIPTOR.services_by_name["AssistantService"]

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def ListAgents(self, request: pb.ListAgentsRequest, call: Call) -> pb.ListAgentsResponse:
        return pb.ListAgentsResponse(agents=[_show(agent) for agent in self._engine.registry])

    async def GetAgent(self, request: pb.GetAgentRequest, call: Call) -> pb.Agent:
        check = Check()
        check.required("name", request.name)
        check.done()
        return _show(self._agent(request.name))

    def _agent(self, name: str) -> AgentSpec:
        agent = self._engine.registry.get(name)
        if agent is None:
            raise errors.agent_not_found(name, self._engine.registry.names)
        return agent

    async def CreateAssistant(self, request: pb.CreateAssistantRequest, call: Call) -> pb.Assistant:
        check = Check()
        check.uuid("assistant_id", request.assistant_id, required=False)
        check.required("agent", request.agent)
        _check_fields(check, "", request)
        check.request_id(request.request_id)
        check.done()
        key = Once.of(call.caller, request, request.request_id)

        def operation(tx: Transaction) -> pb.Assistant:
            return self._engine.assistants.add(tx, call.caller.tenant, _assistant(request))

        return await self._engine.store.write(once(key, pb.Assistant, operation))

    async def GetAssistant(self, request: pb.GetAssistantRequest, call: Call) -> pb.Assistant:
        check = Check()
        check.required("assistant_id", request.assistant_id)
        if request.version < 0:
            check.wrong("version", "must not be negative")
        check.done()
        return await self._engine.store.read(
            lambda reader: self._engine.assistants.resolve(
                reader, call.caller.tenant, request.assistant_id, request.version or None
            )
        )

    async def ListAssistants(
        self, request: pb.ListAssistantsRequest, call: Call
    ) -> pb.ListAssistantsResponse:
        check = Check()
        check.struct("metadata", request.metadata)
        check.done()
        page = page_of(request)
        metadata = to_dict(request.metadata)
        only = request.default if request.HasField("default") else None

        def query(reader: Reader) -> pb.ListAssistantsResponse:
            rows: list[AssistantRow] = []
            if only is not True and (page.before or 0) < _DEFAULTS:
                rows = reader.list_assistants(
                    call.caller.tenant,
                    wider(page),
                    agent=request.agent or None,
                    metadata=metadata,
                )
            keyed = [(row.key, row.data) for row in rows]
            # The default ones came first of all, so they are the end of the list.
            if only is not False:
                keyed += self._defaults(request.agent, metadata, page)
            found = list(fitting(data for _, data in keyed[: page.limit]))
            token = next_token(request, [key for key, _ in keyed], len(found))
            return pb.ListAssistantsResponse(assistants=found, next_page_token=token)

        return await self._engine.store.read(query)

    def _defaults(
        self, agent: str, metadata: dict[str, object], page: Page
    ) -> list[tuple[int, pb.Assistant]]:
        """Returns the default assistants from a page on, with keys that no stored one has."""
        return [
            (key, assistant)
            for key, assistant in enumerate(self._engine.assistants.defaults(), _DEFAULTS)
            if key > (page.before or 0)
            and agent in ("", assistant.agent)
            and metadata.items() <= to_dict(assistant.metadata).items()
        ]

    async def UpdateAssistant(self, request: pb.UpdateAssistantRequest, call: Call) -> pb.Assistant:
        check = Check()
        check.required("assistant_id", request.assistant_id)
        check_mask(check, request.update_mask)
        check.request_id(request.request_id)
        check.done()
        assistants, tenant = self._engine.assistants, call.caller.tenant
        key = Once.of(call.caller, request, request.request_id)

        def operation(tx: Transaction) -> pb.Assistant:
            row = assistants.to_change(tx, tenant, request.assistant_id, request.etag)
            changed = masked(row.data, request.assistant, request.update_mask.paths)
            check = Check()
            _check_fields(check, "assistant.", changed)
            check.done()
            return assistants.add_version(tx, tenant, row, changed)

        return await self._engine.store.write(once(key, pb.Assistant, operation))

    async def DeleteAssistant(self, request: pb.DeleteAssistantRequest, call: Call) -> Empty:
        check = Check()
        check.required("assistant_id", request.assistant_id)
        check.done()
        assistants, tenant = self._engine.assistants, call.caller.tenant

        def operation(tx: Transaction) -> None:
            row = assistants.to_change(tx, tenant, request.assistant_id, request.etag)
            row.deleted = True
            tx.save_assistant(row)

        await self._engine.store.write(operation)
        return Empty()

    async def ListAssistantVersions(
        self, request: pb.ListAssistantVersionsRequest, call: Call
    ) -> pb.ListAssistantVersionsResponse:
        check = Check()
        check.required("assistant_id", request.assistant_id)
        check.done()
        page = page_of(request)

        def query(reader: Reader) -> pb.ListAssistantVersionsResponse:
            versions = self._engine.assistants.versions(
                reader, call.caller.tenant, request.assistant_id, wider(page)
            )
            shown = list(fitting(versions[: page.limit]))
            token = next_token(request, [each.version for each in versions], len(shown))
            return pb.ListAssistantVersionsResponse(versions=shown, next_page_token=token)

        return await self._engine.store.read(query)

    async def SetCurrentVersion(
        self, request: pb.SetCurrentVersionRequest, call: Call
    ) -> pb.Assistant:
        check = Check()
        check.required("assistant_id", request.assistant_id)
        if request.version < 1:
            check.wrong("version", "is required: from 1 on")
        check.done()
        assistants, tenant = self._engine.assistants, call.caller.tenant

        def operation(tx: Transaction) -> pb.Assistant:
            row = assistants.to_change(tx, tenant, request.assistant_id, request.etag)
            return assistants.set_current(tx, tenant, row, request.version)

        return await self._engine.store.write(operation)


def _show(agent: AgentSpec) -> pb.Agent:
    return pb.Agent(
        name=agent.name,
        description=agent.description,
        kind=agent.kind,
        default_assistant_id=default_id(agent.name),
        config_schema_json=json.dumps(agent.config_schema),
        reachable=True,
        model=agent.model,
        tools=agent.tool_names,
    )


def _check_fields(
    check: Check, prefix: str, given: pb.CreateAssistantRequest | pb.Assistant
) -> None:
    check.text(f"{prefix}name", given.name, longest=_NAME)
    check.text(f"{prefix}description", given.description, longest=_DESCRIPTION)
    check.struct(f"{prefix}config", given.config)
    check.struct(f"{prefix}metadata", given.metadata)


def _assistant(request: pb.CreateAssistantRequest) -> pb.Assistant:
    return pb.Assistant(
        assistant_id=request.assistant_id or new_id(),
        agent=request.agent,
        name=request.name or request.agent,
        description=request.description,
        config=request.config,
        metadata=request.metadata,
    )
