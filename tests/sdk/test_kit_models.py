"""Supervisors as docs/supervisors.md writes them, with the real SDKs, against stand-ins."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

import callboard
from callboard_server.agents.context import Context
from standins import anthropic as anthropic_standin
from standins import openai as openai_standin
from standins.http import Handler, serving
from standins.replies import Call, Reply
from tests.docs.markdown import ROOT, blocks
from tests.docs.reader import PORT
from tests.support.gates import PATIENCE
from tests.support.programs import run
from tests.support.serving import local, served

LAUNCH = Call("launch_job", '{"agent": "countdown", "task": "5"}', "call_1")


async def countdown(ctx: Context) -> str:
    """Counts down."""
    return "done"


def supervising(seen: list[Any]) -> Callable[[Any], Reply]:
    """The script of a model: it launches a job and says so."""

    def script(body: Any) -> Reply:
        seen.append(body)
        return Reply("It is handed over.") if len(seen) > 1 else Reply("At once.", [LAUNCH])

    return script


def program(name: str) -> str:
    """A program of the page."""
    page = ROOT / "docs" / "supervisors.md"
    [text] = [block.text for block in blocks(page) if block.file == name]
    return text


@pytest.mark.parametrize(
    ("name", "scripted", "kind", "path"),
    [
        ("claude.py", anthropic_standin.scripted, "ANTHROPIC", ""),
        ("gpt.py", openai_standin.scripted, "OPENAI", "/v1"),
    ],
)
async def test_programs_of_the_page(
    name: str, scripted: Callable[[Any], Handler], kind: str, path: str, tmp_path: Path
) -> None:
    seen: list[Any] = []
    async with (
        served([countdown], tmp_path / "db") as server,
        serving(scripted(supervising(seen))) as model,
    ):
        code, printed = await asyncio.to_thread(
            run,
            *("-", "a-model", "Have somebody count down from 5."),
            given=program(name).replace(PORT, str(server.port)),
            timeout=2 * PATIENCE,
            env={**os.environ, f"{kind}_API_KEY": "key", f"{kind}_BASE_URL": model.url + path},
        )
        assert code == 0, printed
        assert printed.split("\n")[-2] == "It is handed over."
        [job] = [job async for job in server.client.jobs.list()]
        assert job.task == "5"
        assert job.job_id in json.dumps(seen[1])


async def test_chat_completions(tmp_path: Path) -> None:
    seen: list[Any] = []
    async with (
        local([countdown], tmp_path / "db") as client,
        serving(openai_standin.scripted(supervising(seen))) as model,
        openai.AsyncOpenAI(api_key="key", base_url=model.url + "/v1") as gpt,
    ):
        tools = callboard.AsyncSupervisorTools(client, ["countdown"])
        messages: list[Any] = [{"role": "user", "content": "Have somebody count."}]
        for _ in range(2):
            async with gpt.chat.completions.stream(
                model="a-model", messages=messages, tools=tools.openai(api="chat")
            ) as stream:
                message = (await stream.get_final_completion()).choices[0].message
            messages.append(message)
            for call in message.tool_calls or ():
                told = await tools.call(
                    call.function.name, call.function.arguments, call_id=call.id
                )
                messages.append({"role": "tool", "tool_call_id": call.id, "content": told})
        assert message.content == "It is handed over."
        [job] = [job async for job in client.jobs.list()]
        assert job.job_id in json.dumps(seen[1])
