"""AssistantService."""

from __future__ import annotations

import json

from google.protobuf.empty_pb2 import Empty
from jsonschema import Draft202012Validator

from callboard.structs import to_dict
from callboard.v1 import assistant_pb2 as pb
from callboard.v1.error_pb2 import ErrorReason
from callboard_server import errors
from callboard_server.agents.registry import AgentSpec
from callboard_server.engine.assistants import default_id
from callboard_server.engine.engine import Engine, Once, once
from callboard_server.ids import new_id
from callboard_server.rpc import Call
from callboard_server.services.paging import fitting, next_token, page_of, wider
from callboard_server.services.validation import Check
from callboard_server.store.base import Reader, Transaction

_NAME, _DESCRIPTION = 255, 10_000


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
        self._check_create(request)
        agent = self._agent(request.agent)
        _check_config(agent, request)
        key = Once.of(call.caller, request, request.request_id)
        tenant = call.caller.tenant

        def operation(tx: Transaction) -> pb.Assistant:
            assistant_id = request.assistant_id or new_id()
            if self._engine.assistants.is_default(assistant_id) or tx.assistant(
                tenant, assistant_id
            ):
                reason = ErrorReason.ERROR_REASON_ASSISTANT_ALREADY_EXISTS
                raise errors.already_exists("Assistant", assistant_id, reason)
            assistant = _first_version(request, assistant_id, tx.now)
            return tx.add_assistant(tenant, assistant).data

        return await self._engine.store.write(once(key, pb.Assistant, operation))

    def _check_create(self, request: pb.CreateAssistantRequest) -> None:
        check = Check()
        check.uuid("assistant_id", request.assistant_id, required=False)
        check.required("agent", request.agent)
        check.text("name", request.name, longest=_NAME)
        check.text("description", request.description, longest=_DESCRIPTION)
        check.struct("config", request.config)
        check.struct("metadata", request.metadata)
        check.request_id(request.request_id)
        check.done()

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
            rows = []
            if only is not True:
                rows = reader.list_assistants(
                    call.caller.tenant,
                    wider(page),
                    agent=request.agent or None,
                    metadata=metadata,
                )
            found = list(fitting(row.data for row in rows[: page.limit]))
            token = next_token(request, [row.key for row in rows], len(found))
            # The default ones came first of all, so they are the end of the last page.
            if not token and only is not False:
                found += self._defaults(request.agent, metadata)
            return pb.ListAssistantsResponse(assistants=found, next_page_token=token)

        return await self._engine.store.read(query)

    def _defaults(self, agent: str, metadata: dict[str, object]) -> list[pb.Assistant]:
        return [
            assistant
            for assistant in self._engine.assistants.defaults()
            if agent in ("", assistant.agent)
            and metadata.items() <= to_dict(assistant.metadata).items()
        ]

    async def UpdateAssistant(self, request: pb.UpdateAssistantRequest, call: Call) -> pb.Assistant:
        raise errors.not_implemented("UpdateAssistant")

    async def DeleteAssistant(self, request: pb.DeleteAssistantRequest, call: Call) -> Empty:
        raise errors.not_implemented("DeleteAssistant")

    async def ListAssistantVersions(
        self, request: pb.ListAssistantVersionsRequest, call: Call
    ) -> pb.ListAssistantVersionsResponse:
        raise errors.not_implemented("ListAssistantVersions")

    async def SetCurrentVersion(
        self, request: pb.SetCurrentVersionRequest, call: Call
    ) -> pb.Assistant:
        raise errors.not_implemented("SetCurrentVersion")


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


def _first_version(request: pb.CreateAssistantRequest, assistant_id: str, now: int) -> pb.Assistant:
    assistant = pb.Assistant(
        assistant_id=assistant_id,
        agent=request.agent,
        name=request.name or request.agent,
        description=request.description,
        config=request.config,
        metadata=request.metadata,
        version=1,
        etag="1",
    )
    assistant.create_time.FromNanoseconds(now)
    assistant.update_time.FromNanoseconds(now)
    return assistant


def _check_config(agent: AgentSpec, request: pb.CreateAssistantRequest) -> None:
    """Refuses a configuration that does not fit the agent's schema."""
    check = Check()
    validator = Draft202012Validator(agent.config_schema)
    for problem in validator.iter_errors(to_dict(request.config)):
        path = ".".join(["config", *map(str, problem.absolute_path)])
        check.wrong(path, problem.message)
    check.done()
