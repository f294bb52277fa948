"""Structured output: what a final answer must be, through the real SDKs, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from callboard import RunState, text_of
from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.message_pb2 import Role
from callboard_server.agents.chat import ChatAgent
from callboard_server.agents.errors import AgentError
from callboard_server.agents.output import OutputFormat
from callboard_server.schemas import schema_problem
from standins.http import HttpServer
from standins.replies import Reply
from tests.support.chatting import KINDS, Kind, ask, chatting, messages_of, saying

SUCCEEDED, FAILED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_FAILED
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer", "minimum": 1}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
OSLO = '{"city": "Oslo", "people": 700000}'


def last_text(server: HttpServer) -> str:
    """The last message of the last request, whatever its format."""
    body = server.requests[-1].body
    return json.dumps((body.get("messages") or body["input"])[-1], ensure_ascii=False)


@pytest.mark.parametrize("kind", KINDS)
class TestOutput:
    async def test_an_answer_that_fits_is_the_result(self, kind: Kind, tmp_path: Path) -> None:
        handler = saying(kind, Reply(OSLO))
        async with chatting(tmp_path, handler, kind, output_schema=CITY) as (client, server):
            run = await ask(client)
            assert run.state == SUCCEEDED
            assert text_of(run.outcome.result) == OSLO
            assert '"people"' in server.requests[0].content.decode()

    async def test_one_that_does_not_is_told_to_the_model_once(
        self, kind: Kind, tmp_path: Path
    ) -> None:
        handler = saying(kind, Reply('{"city": "Oslo", "people": 0}'), Reply(OSLO))
        async with chatting(tmp_path, handler, kind, output_schema=CITY) as (client, server):
            run = await ask(client)
            assert (run.state, text_of(run.outcome.result)) == (SUCCEEDED, OSLO)
            assert "people: must be at least 1, not 0" in last_text(server)
            assert len(server.requests) == 2
            roles = [message.role for message in await messages_of(client, run)]
        answers = [Role.ROLE_ASSISTANT, Role.ROLE_SYSTEM, Role.ROLE_ASSISTANT]
        assert roles == [Role.ROLE_USER, *answers]

    async def test_one_that_never_does_ends_the_run(self, kind: Kind, tmp_path: Path) -> None:
        handler = saying(kind, Reply("It is Oslo."))
        async with chatting(tmp_path, handler, kind, output_schema=CITY) as (client, server):
            run = await ask(client)
            assert len(server.requests) == 2
            assert "It is not JSON." in last_text(server)
        assert run.state == FAILED
        assert run.outcome.error.reason == ErrorReason.ERROR_REASON_MODEL_OUTPUT_INVALID
        assert text_of(run.outcome.result) == "It is Oslo."

    async def test_each_run_is_told_anew(self, kind: Kind, tmp_path: Path) -> None:
        handler = saying(kind, Reply("Oslo"), Reply(OSLO), Reply("Oslo"), Reply(OSLO))
        async with chatting(tmp_path, handler, kind, output_schema=CITY) as (client, _):
            first = await ask(client)
            second = await ask(client, thread_id=first.thread_id)
        assert (first.state, second.state) == (SUCCEEDED, SUCCEEDED)

    async def test_a_run_may_bring_its_own(self, kind: Kind, tmp_path: Path) -> None:
        handler = saying(kind, Reply("Oslo"), Reply(OSLO))
        async with chatting(tmp_path, handler, kind) as (client, _):
            run = await ask(client, config={"output_schema": CITY})
            assert text_of(run.outcome.result) == OSLO
            run = await ask(client)
            assert text_of(run.outcome.result) == OSLO


class City(BaseModel):
    city: str

    @field_validator("city")
    @classmethod
    def _check(cls, city: str) -> str:
        if not city.istitle():
            raise ValueError("secret")
        return city


class TestOutputFormat:
    def test_a_pydantic_model_checks_with_its_validators(self) -> None:
        output = OutputFormat(City)
        assert output.objection('{"city": "Oslo"}') is None
        objection = output.objection('{"city": "oslo"}') or ""
        assert "- city: is not valid" in objection
        assert "secret" not in objection
        assert '"title":"City"' in objection

    @pytest.mark.parametrize(
        ("schema", "problem"),
        [
            ({"type": "strin"}, "is no JSON Schema: type: 'strin' is not one of: array, bo"),
            ({"$ref": "http://127.0.0.1/x"}, "refers to 'http://127.0.0.1/x'"),
            ({"items": [{"$ref": "file:///etc"}]}, "is no JSON Schema"),
            ({"allOf": [{"$ref": "file:///etc"}]}, "refers to 'file:///etc'"),
        ],
    )
    def test_schemas_that_cannot_be_used(self, schema: dict[str, Any], problem: str) -> None:
        assert (schema_problem(schema) or "").startswith(problem)
        with pytest.raises(ValueError, match="output_schema"):
            ChatAgent("offline:", output_schema=schema)

    @pytest.mark.parametrize("schema", [{"$ref": "#/nowhere"}, {"$ref": "#"}])
    def test_schemas_that_lead_nowhere(self, schema: dict[str, Any]) -> None:
        assert schema_problem(schema) is None
        with pytest.raises(AgentError) as caught:
            OutputFormat(schema).objection("1")
        assert caught.value.reason == ErrorReason.ERROR_REASON_CONFIG_INVALID
