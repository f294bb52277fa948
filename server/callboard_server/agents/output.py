"""Structured output: what a final answer must be, and what a model is told where it is not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from referencing.exceptions import Unresolvable

from callboard.v1.error_pb2 import ErrorReason
from callboard_server.agents.errors import AgentError
from callboard_server.schemas import list_problems
from callboard_server.validation import describe_errors

_MOST_PROBLEMS = 10


class OutputFormat:
    """What a final answer must be.

    Args:
        wanted: A JSON Schema, or a pydantic model, whose validators count, too.
    """

    def __init__(self, wanted: Mapping[str, Any] | type[BaseModel]) -> None:
        self._model = wanted if isinstance(wanted, type) else None
        self.schema = wanted.model_json_schema() if isinstance(wanted, type) else dict(wanted)

    def objection(self, text: str) -> str | None:
        """Returns what to tell the model about an answer that does not fit; None where it fits.

        Raises:
            AgentError: The schema cannot be applied.
        """
        problems = self._problems(text)[:_MOST_PROBLEMS]
        if not problems:
            return None
        listed = "\n".join(f"- {problem}" for problem in problems)
        return (
            f"Your answer does not have the form that is asked for:\n{listed}\n"
            "Answer again with JSON that fits this schema, and with nothing before or after it:\n"
            f"{to_json(self.schema).decode()}"
        )

    def _problems(self, text: str) -> list[str]:
        if self._model is not None:
            try:
                self._model.model_validate_json(text)
            except ValidationError as error:
                return describe_errors(error, self.schema)
            return []
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return ["It is not JSON."]
        try:
            return list_problems(self.schema, value)
        except (RecursionError, Unresolvable):
            raise AgentError(
                "The output schema refers to parts that it does not have, or to itself for ever.",
                reason=ErrorReason.ERROR_REASON_CONFIG_INVALID,
            ) from None
