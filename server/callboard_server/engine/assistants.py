"""Assistants: agents with their configurations, and the default one that every agent has."""

from __future__ import annotations

import uuid

from google.protobuf.timestamp_pb2 import Timestamp

from callboard.v1.assistant_pb2 import Assistant
from callboard_server import errors
from callboard_server.agents.registry import Registry
from callboard_server.store.base import Reader

_NAMESPACE = uuid.UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")


def default_id(agent: str) -> str:
    """Returns the id of an agent's default assistant."""
    return str(uuid.uuid5(_NAMESPACE, agent))


class Assistants:
    """Finds assistants by id, and default assistants by the agent's name, too."""

    def __init__(self, registry: Registry, start_time: Timestamp) -> None:
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

    @property
    def agents(self) -> list[str]:
        return list(self._names)

    def is_default(self, assistant_id: str) -> bool:
        return assistant_id in self._defaults

    def defaults(self) -> list[Assistant]:
        """Returns the default assistants by the name of their agents."""
        return [self._defaults[self._names[name]] for name in sorted(self._names)]

    def resolve(
        self, reader: Reader, tenant: str, reference: str, version: int | None = None
    ) -> Assistant:
        """Returns the assistant that an id or an agent's name stands for.

        Raises:
            ServiceError: There is none, or not in that version.
        """
        assistant_id = self._names.get(reference, reference)
        default = self._defaults.get(assistant_id)
        if default is not None:
            if version not in (None, 1):
                raise errors.version_not_found(reference, version or 0, 1)
            return default
        row = reader.assistant(tenant, assistant_id, version)
        if row is not None:
            return row.data
        if version is not None and (current := reader.assistant(tenant, assistant_id)):
            raise errors.version_not_found(reference, version, current.data.version)
        raise errors.assistant_not_found(reference, self._names)
