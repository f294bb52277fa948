"""Assistants: agents with their configurations, in versions; and the default one of every agent."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from callboard.structs import to_dict
from callboard.v1.assistant_pb2 import Assistant
from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.run_pb2 import Run
from callboard_server import errors
from callboard_server.agents.registry import AgentSpec, Registry
from callboard_server.errors import ServiceError, Violation
from callboard_server.store.base import AssistantRow, Page, Reader, Transaction
from callboard_server.wording import Path, written

_NAMESPACE = uuid.UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
_VERSION_NOT_FOUND = ErrorReason.ERROR_REASON_ASSISTANT_VERSION_NOT_FOUND
_VERSIONED = ("name", "description", "config", "metadata")


def default_id(agent: str) -> str:
    """Returns the id of an agent's default assistant."""
    return str(uuid.uuid5(_NAMESPACE, agent))


def effective_config(assistant: Assistant, config: Struct) -> dict[str, object]:
    """Returns what holds for a run: its own configuration over its assistant's, key by key."""
    return {**to_dict(assistant.config), **to_dict(config)}


class Assistants:
    """Finds assistants by id, and default assistants by the agent's name, too."""

    def __init__(self, registry: Registry, start_time: Timestamp) -> None:
        self._registry = registry
        self._defaults = {
            default_id(agent.name): self._default(agent.name, agent.description, start_time)
            for agent in registry
        }
        self._names = {agent.name: default_id(agent.name) for agent in registry}

    def _default(self, name: str, description: str, start_time: Timestamp) -> Assistant:
        assistant = Assistant(
            assistant_id=default_id(name),
            agent=name,
            name=name,
            description=description,
            version=1,
            default=True,
            etag="1",
            create_time=start_time,
            update_time=start_time,
        )
        assistant.config.SetInParent()
        assistant.metadata.fields["created_by"].string_value = "system"
        return assistant

    def defaults(self) -> list[Assistant]:
        """Returns the default assistants by the name of their agents."""
        return [self._defaults[self._names[name]] for name in sorted(self._names)]

    # Finding

    def resolve(
        self, reader: Reader, tenant: str, reference: str, version: int | None = None
    ) -> Assistant:
        """Returns the assistant that an id or an agent's name stands for.

        Raises:
            ServiceError: There is none, or not in that version.
        """
        default = self._default_of(reference)
        if default is not None:
            if version not in (None, 1):
                raise errors.version_not_found(reference, version or 0, 1)
            return default
        return self._stored(reader, tenant, reference, version).data

    def pinned(self, reader: Reader, tenant: str, run: Run) -> Assistant:
        """Returns the assistant of a run in the run's version, also if it was deleted since."""
        default = self._defaults.get(run.assistant_id)
        if default is not None:
            return default
        row = reader.assistant(tenant, run.assistant_id, run.assistant_version)
        if row is not None:
            return row.data
        # The agent is gone, and its default assistant with it: the run ends when it starts.
        return Assistant(assistant_id=run.assistant_id, agent=run.agent, name=run.agent)

    def versions(self, reader: Reader, tenant: str, reference: str, page: Page) -> list[Assistant]:
        """Returns versions of an assistant, newest first.

        Raises:
            ServiceError: There is no such assistant.
        """
        default = self._default_of(reference)
        if default is not None:
            return [default]
        return reader.assistant_versions(self._stored(reader, tenant, reference).key, page)

    def _default_of(self, reference: str) -> Assistant | None:
        return self._defaults.get(self._names.get(reference, reference))

    def _stored(
        self, reader: Reader, tenant: str, assistant_id: str, version: int | None = None
    ) -> AssistantRow:
        row = reader.assistant(tenant, assistant_id)
        if row is None or row.deleted:
            raise errors.assistant_not_found(assistant_id, self._names)
        if version is None or version == row.current:
            return row
        found = reader.assistant(tenant, assistant_id, version)
        if found is None:
            raise errors.version_not_found(assistant_id, version, row.latest)
        return found

    # Changing

    def add(self, tx: Transaction, tenant: str, assistant: Assistant) -> Assistant:
        """Adds an assistant with its first version.

        Raises:
            ServiceError: Its id is, or was, another's, or its configuration does not fit.
        """
        self.check_config(tx, tenant, assistant.agent, assistant.config, "config")
        used = tx.is_assistant_id_used(tenant, assistant.assistant_id)
        if used or assistant.assistant_id in self._defaults:
            raise errors.assistant_id_used(assistant.assistant_id)
        _number(assistant, 1, tx.now)
        assistant.create_time.CopyFrom(assistant.update_time)
        return tx.add_assistant(tenant, assistant).data

    def to_change(self, reader: Reader, tenant: str, reference: str, etag: str) -> AssistantRow:
        """Returns an assistant that may be changed.

        Args:
            reader: Where it is.
            tenant: Whose it is.
            reference: Its id.
            etag: What it must have; any will do when empty.

        Raises:
            ServiceError: There is none, it is a default one, or it has another etag.
        """
        if self._default_of(reference) is not None:
            raise errors.assistant_read_only(reference)
        row = self._stored(reader, tenant, reference)
        if etag and etag != row.data.etag:
            raise errors.etag_mismatch("assistant")
        return row

    def add_version(
        self, tx: Transaction, tenant: str, row: AssistantRow, changed: Assistant
    ) -> Assistant:
        """Makes what an assistant was changed to a version, if anything was changed.

        Raises:
            ServiceError: The configuration does not fit.
        """
        if all(getattr(changed, name) == getattr(row.data, name) for name in _VERSIONED):
            return row.data
        if changed.config != row.data.config:
            self.check_config(tx, tenant, changed.agent, changed.config, "assistant.config")
        _number(changed, row.latest + 1, tx.now)
        tx.add_version(row, changed)
        return changed

    def set_current(
        self, tx: Transaction, tenant: str, row: AssistantRow, version: int
    ) -> Assistant:
        """Makes a version the current one.

        Raises:
            ServiceError: There is no such version.
        """
        target = self._stored(tx, tenant, row.data.assistant_id, version)
        if version != row.current:
            target.current = version
            tx.save_assistant(target)
        return target.data

    # Checking

    def check_config(
        self, reader: Reader, tenant: str, agent: str, config: Struct, field: str
    ) -> None:
        """Checks a configuration against what an agent takes, and whom it names.

        Args:
            reader: Where assistants are.
            tenant: Whose they are.
            agent: The agent's name.
            config: The configuration.
            field: The field of the request that it comes from.

        Raises:
            ServiceError: It does not fit, or there is no such agent.
        """
        spec, given = self._agent(agent), to_dict(config)
        problems = spec.problems(given)
        _refuse(field, problems or self._strangers(reader, tenant, spec, given))

    def check_run(
        self, reader: Reader, tenant: str, assistant: Assistant, config: Struct, field: str
    ) -> None:
        """Checks the configuration that a run would have.

        Args:
            reader: Where assistants are.
            tenant: Whose they are.
            assistant: The run's assistant.
            config: What the request lays over the assistant's configuration.
            field: The field of the request that it comes from.

        Raises:
            ServiceError: It does not fit, or the agent is gone.
        """
        agent = self._agent(assistant.agent)
        # The assistant's own was checked when it was written; of a default one keys can be missing.
        if not config.fields and not agent.config_schema.get("required"):
            return
        problems = agent.problems(effective_config(assistant, config), to_dict(assistant.config))
        for path in problems:
            if path and path[0] in assistant.config.fields and path[0] not in config.fields:
                problems[path] += f" (in version {assistant.version} of the assistant)"
        _refuse(field, problems or self._strangers(reader, tenant, agent, to_dict(config)))

    def _strangers(
        self, reader: Reader, tenant: str, agent: AgentSpec, config: Mapping[str, object]
    ) -> dict[Path, str]:
        """Returns what is wrong with whom a configuration lets an agent call: who is not there."""
        problems: dict[Path, str] = {}
        if agent.callables is None or "callable_assistants" not in config:
            return problems
        for place, called in enumerate(agent.callables(config)):
            try:
                self.resolve(reader, tenant, called.id, called.version)
            except ServiceError as error:
                key = "version" if error.reason == _VERSION_NOT_FOUND else "id"
                problems["callable_assistants", place, key] = error.message
        return problems

    def model_of(self, assistant: Assistant, config: Struct) -> str:
        """Returns the model that a run of an assistant would call; empty where it has none."""
        agent = self._registry.get(assistant.agent)
        if agent is None or not agent.model:
            return ""
        return str(effective_config(assistant, config).get("model") or agent.model)

    def _agent(self, name: str) -> AgentSpec:
        agent = self._registry.get(name)
        if agent is None:
            raise errors.agent_not_found(name, self._names)
        return agent


def _number(assistant: Assistant, version: int, now: int) -> None:
    assistant.version, assistant.etag = version, str(version)
    assistant.update_time.FromNanoseconds(now)


def _refuse(field: str, problems: Mapping[Path, str]) -> None:
    if problems:
        raise errors.invalid(
            *(Violation(written((field, *path)), text) for path, text in problems.items())
        )
