"""MCP servers as sources of tools: real ones, over pipes and HTTP, of both kinds of protocols."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import callboard
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.message_pb2 import ToolCall
from callboard_server.agents.errors import AgentError, ToolError
from callboard_server.agents.loading import load
from callboard_server.agents.mcp import McpServer, tool_name
from callboard_server.agents.tools import ToolOutput, run_tool
from callboard_server.app import client_caller, open_app
from callboard_server.config import ConfigError, McpSettings, ServerConfig, load_config
from tests.server.doubles import make_context
from tests.support.gates import PATIENCE
from tests.support.programs import Program, python
from tests.support.serving import settings
from tests.support.waiting import until

PROGRAM = Path(__file__).with_name("mcp_tools.py")
OVER_PIPES = [("pipes", "modern"), ("pipes", "legacy")]
OVER_HTTP = [("http", "modern"), ("http", "legacy")]


class HttpServer:
    """The server of tools in a process of its own, to be killed and started again."""

    def __init__(self, era: str) -> None:
        self._era = era
        self._port = 0
        self._program: Program | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/mcp"

    async def start(self) -> None:
        read, write = os.pipe()
        with os.fdopen(read, "rb") as printed:
            with os.fdopen(write, "wb") as stdout:
                self._program = Program(PROGRAM, self._port, self._era, stdout=stdout)
            self._port = int(await asyncio.to_thread(printed.readline))

    async def kill(self) -> None:
        assert self._program is not None
        self._program.kill()
        await self._program.ended()


def piped(era: str = "modern", **more: Any) -> dict[str, Any]:
    return {"command": python(), "args": [str(PROGRAM), "pipes", era], **more}


@asynccontextmanager
async def opened(folder: Path, **its: Any) -> AsyncIterator[McpServer]:
    server = McpServer("kit", McpSettings.model_validate(its), folder)
    try:
        await server.open()
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def reached(folder: Path, way: str, era: str, **more: Any) -> AsyncIterator[McpServer]:
    if way == "pipes":
        async with opened(folder, **piped(era, **more)) as server:
            yield server
        return
    http = HttpServer(era)
    await http.start()
    try:
        async with opened(folder, url=http.url, **more) as server:
            yield server
    finally:
        await http.kill()


async def call(server: McpServer, tool: str, **arguments: object) -> ToolOutput:
    tools = {each.name: each for each in await server.load()}
    wanted = ToolCall(name=f"kit__{tool}", arguments_json=json.dumps(arguments))
    return await run_tool(tools, wanted, make_context())


async def exists(path: Path) -> bool:
    return path.exists()


async def is_gone(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return True
    return False


class TestCalls:
    @pytest.mark.parametrize(("way", "era"), OVER_PIPES + OVER_HTTP)
    async def test_tools_are_listed_called_and_cancelled(
        self, way: str, era: str, tmp_path: Path
    ) -> None:
        async with reached(tmp_path, way, era) as server:
            tools = {tool.name: tool for tool in server.tools}
            add, fail = tools["kit__add"], tools["kit__fail"]
            assert add.description == "Add two numbers."
            assert add.parameters["required"] == ["a", "b"]
            assert add.idempotent
            assert not fail.idempotent
            assert await call(server, "add", a=1, b=2) == ToolOutput("3")
            refused = await call(server, "add", a="one", b=2)
            assert refused.is_error
            assert "valid integer" in refused.text
            assert await call(server, "fail") == ToolOutput("Error executing tool fail", True)

            waiting = asyncio.create_task(call(server, "wait", folder=str(tmp_path)))
            await until(lambda: exists(tmp_path / "begun"))
            waiting.cancel()
            await until(lambda: exists(tmp_path / "cancelled"))
            assert await call(server, "add", a=2, b=2) == ToolOutput("4")

            assert (await call(server, "learn", name="dance")).text == "learned"
            await until(lambda: has_tool(server, "kit__dance"))
            assert await call(server, "dance") == ToolOutput("dance")

    async def test_results_become_text(self, tmp_path: Path) -> None:
        async with opened(tmp_path, **piped()) as server:
            assert (await call(server, "show")).text.splitlines() == [
                "words",
                "[image/png, 5 bytes, which cannot be shown]",
                "[a.txt at file:///a.txt: the first]",
                "[file:///b.txt]",
                "bee",
                "[file:///c.bin, file, 3 bytes, which cannot be shown]",
            ]
            assert (await call(server, "structure")).text == '{"seats":[1,2]}'
            text, note = (await call(server, "long")).text.split("\n")
            assert text == "x" * 200_000
            assert note == "[100,000 more characters left out]"
            sell = tool_name("kit", "shop.sell").removeprefix("kit__")
            assert (await call(server, sell)).text == "sold"
            [add] = [tool for tool in server.tools if tool.name == "kit__add"]
            for arguments in "[1]", "{", "7":
                with pytest.raises(ToolError, match="no JSON object"):
                    await add.call(arguments, make_context())

    async def test_a_slow_tool_is_given_up(self, tmp_path: Path) -> None:
        async with opened(tmp_path, **piped(timeout=0.2)) as server:
            output = await call(server, "wait", folder=str(tmp_path))
            assert output == ToolOutput("kit__wait took longer than 0.2 s.", True)

    async def test_a_program_gets_what_it_is_given_and_no_secrets(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SHELF_KEY", "sesame")
        monkeypatch.setenv("OPENAI_API_KEY", "of the server")
        (tmp_path / "shelf").mkdir()
        its = piped(cwd="shelf", env={"COLOUR": "red"}, pass_env=["SHELF_KEY"])
        async with opened(tmp_path, **its) as server:
            names = ["COLOUR", "SHELF_KEY", "OPENAI_API_KEY"]
            output = await call(server, "surroundings", names=names)
            assert json.loads(output.text) == {
                "folder": str(tmp_path / "shelf"),
                "COLOUR": "red",
                "SHELF_KEY": "sesame",
                "OPENAI_API_KEY": None,
            }

    async def test_headers_come_from_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SHELF_TOKEN", "sesame")
        monkeypatch.setenv("SHELF_TEAM", "red")
        more = {"token_env": "SHELF_TOKEN", "headers_env": {"X-Team": "SHELF_TEAM"}}
        async with reached(tmp_path, "http", "modern", **more) as server:
            output = await call(server, "headers", names=["authorization", "x-team"])
            assert json.loads(output.text) == {"authorization": "Bearer sesame", "x-team": "red"}


async def has_tool(server: McpServer, name: str) -> bool:
    return name in [tool.name for tool in server.tools]


class TestLosses:
    async def test_a_program_that_died_is_started_again(self, tmp_path: Path) -> None:
        async with opened(tmp_path, **piped()) as server:
            first = int((await call(server, "process_id")).text)
            os.kill(first, signal.SIGKILL)
            await until(lambda: is_gone(first))
            second = int((await call(server, "process_id")).text)
            assert second != first
            await server.close()
            await until(lambda: is_gone(second))

    async def test_only_a_call_that_may_be_repeated_is(self, tmp_path: Path) -> None:
        async with opened(tmp_path, **piped()) as server:
            marks = tmp_path / "once"
            output = await call(server, "strike", marks=str(marks))
            assert output.is_error
            assert "was lost while the tool ran" in output.text
            assert marks.read_text() == "struck\n"
            marks = tmp_path / "twice"
            assert await call(server, "strike_again", marks=str(marks)) == ToolOutput("still here")
            assert marks.read_text() == "struck\n" * 2

    @pytest.mark.parametrize(("way", "era"), OVER_HTTP)
    async def test_a_server_may_go_and_come_back(self, way: str, era: str, tmp_path: Path) -> None:
        http = HttpServer(era)
        await http.start()
        try:
            async with opened(tmp_path, url=http.url) as server:
                waiting = asyncio.create_task(call(server, "wait", folder=str(tmp_path)))
                await until(lambda: exists(tmp_path / "begun"))
                await http.kill()
                assert "was lost while the tool ran" in (await waiting).text
                gone = "The MCP server kit cannot be reached. Nothing was done."
                await until(lambda: answers(server, ToolOutput(gone, True)))
                await http.start()
                await until(lambda: answers(server, ToolOutput("3")))
                # Between two calls, so that a session is lost that nobody used meanwhile.
                await http.kill()
                await http.start()
                assert await call(server, "add", a=1, b=2) == ToolOutput("3")
        finally:
            await http.kill()

    @pytest.mark.parametrize(
        ("its", "problem"),
        [
            ({"command": "false"}, "ended before it answered"),
            ({"command": "sleep", "args": ["600"], "connect_timeout": 0.2}, "within 0.2 s"),
            ({"url": "http://127.0.0.1:{port}/mcp"}, "cannot be reached"),
        ],
    )
    async def test_a_server_that_does_not_answer(
        self, its: dict[str, Any], problem: str, tmp_path: Path
    ) -> None:
        if "url" in its:
            its = {"url": its["url"].format(port=_closed_port())}
        async with opened(tmp_path, **its) as server:
            assert server.tools == []
            with pytest.raises(AgentError, match=problem) as failure:
                await server.load()
            assert failure.value.retryable

    async def test_what_a_broken_program_says_is_shown_to_nobody(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code = "import sys; print('secret'); print('secret', file=sys.stderr)"
        its = {"command": sys.executable, "args": ["-c", code], "log_file": str(tmp_path / "log")}
        async with opened(tmp_path, **its) as server:
            with pytest.raises(AgentError, match="ended before it answered"):
                await server.load()
        assert "secret" not in "".join(capsys.readouterr())
        assert "secret" in (tmp_path / "log").read_text()


async def answers(server: McpServer, output: ToolOutput) -> bool:
    return await call(server, "add", a=1, b=2) == output


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


class TestNames:
    @given(st.lists(st.text(min_size=1), unique=True))
    def test_are_taken_by_all_providers_and_differ(self, names: list[str]) -> None:
        made = [tool_name("kit", name) for name in names]
        assert len(set(made)) == len(names)
        assert all(re.fullmatch(r"kit__[A-Za-z0-9_-]{1,59}", name) for name in made)

    def test_plain_ones_stay(self) -> None:
        assert tool_name("kit", "add_two-numbers") == "kit__add_two-numbers"


class TestSettings:
    @pytest.mark.parametrize(
        ("its", "problem"),
        [
            ("", "mcp.kit: needs either command or url"),
            ("command = 'cat'\nurl = 'http://x/'", "mcp.kit: needs either command or url"),
            ("command = 'cat'\ntoken_env = 'HOME'", "mcp.kit: token_env belong to a url"),
            ("url = 'http://x/'\nargs = []", "mcp.kit: args belong to a command"),
            ("url = 'http://me:secret@x/'", "hold no password"),
            ("url = 'ftp://x/'", "must begin with http"),
            ("command = 'cat'\ntimeout = 0.0", "mcp.kit.timeout"),
        ],
    )
    def test_wrong_ones_are_refused(self, its: str, problem: str, tmp_path: Path) -> None:
        path = tmp_path / "callboard.toml"
        path.write_text(f"[mcp.kit]\n{its}\n")
        with pytest.raises(ConfigError, match=re.escape(problem)) as failure:
            load_config(path)
        assert "secret" not in str(failure.value)

    @pytest.mark.parametrize("name", ["a__b", "_a", "1a", "a" * 33, "a b"])
    def test_names_that_would_not_part_from_those_of_tools_are_refused(
        self, name: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "callboard.toml"
        path.write_text(f"[mcp.'{name}']\ncommand = 'cat'\n")
        with pytest.raises(ConfigError, match="a name is a letter"):
            load_config(path)

    @pytest.mark.parametrize(
        ("its", "problem"),
        [
            ({"command": "no-such-program"}, "command: there is no program no-such-program"),
            ({"command": "./server.py"}, "command: there is no program ./server.py"),
            ({"command": "cat", "cwd": "nowhere"}, "cwd: there is no folder"),
            ({"command": "cat", "pass_env": ["NO_SUCH"]}, "variable NO_SUCH is not set"),
            ({"url": "http://x/", "token_env": "NO_SUCH"}, "variable NO_SUCH is not set"),
        ],
    )
    def test_what_is_not_there_is_told_at_the_start(
        self, its: dict[str, Any], problem: str, tmp_path: Path
    ) -> None:
        config = ServerConfig.model_validate({"mcp": {"kit": its}})
        with pytest.raises(ConfigError, match=re.escape(problem)) as failure:
            load(config, tmp_path)
        assert str(failure.value).startswith("[mcp.kit] ")

    def test_an_unknown_server_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "callboard.toml"
        path.write_text(
            "[mcp.kit]\ncommand = 'cat'\n[agents.it]\nmodel = 'offline:'\nmcp = ['kot']\n"
        )
        with pytest.raises(ConfigError, match=r"there is no \[mcp.kot\]; did you mean kit\?"):
            load_config(path)

    def test_a_missing_package_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("callboard_server.agents.mcp", "callboard_server.agents.mcp_connection"):
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "mcp", None)
        config = ServerConfig.model_validate({"mcp": {"kit": piped()}})
        with pytest.raises(ConfigError, match=re.escape('pip install "callboard[mcp]"')):
            load(config, tmp_path)


RULES = r"""
[[rule]]
example = "add 1 and 2"
when = 'add (?P<a>\d+) and (?P<b>\d+)'
call = [{ tool = "kit__add", arguments = { a = "{a}", b = "{b}" } }]

[[rule]]
example = "which process?"
when = 'which process\?'
call = [{ tool = "kit__process_id" }]

[[rule]]
example = "strike once"
when = 'strike (?P<marks>\S+)'
call = [{ tool = "kit__strike", arguments = { marks = "{marks}" } }]
"""


@pytest.fixture
def rules(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES)


@asynccontextmanager
async def serving(
    folder: Path, its: dict[str, Any], wanted: list[str], **more: Any
) -> AsyncIterator[callboard.AsyncClient]:
    """A server with two agents that call tools of a kit."""
    agent = {"model": "offline:rules.toml", "mcp": wanted, "max_attempts": 1, **more}
    config = ServerConfig.model_validate(
        {
            **settings(folder / "jobs.db"),
            "mcp": {"kit": its},
            "agents": {"clerk": agent, "other": {"model": "offline:"}},
        }
    )
    async with open_app(config, load(config, folder)) as app:
        yield app.client(client_caller("local"))


async def ask(client: callboard.AsyncClient, agent: str, text: str) -> str:
    """What an agent answers, or how it failed."""
    run = await client.runs.create(agent, text)
    run = await client.runs.wait(run.run_id, timeout=PATIENCE)
    if run.state == RunState.RUN_STATE_FAILED:
        return run.outcome.error.message
    return callboard.text_of(run.outcome.result)


@pytest.mark.usefixtures("rules")
class TestRuns:
    async def test_a_chat_agent_calls_tools(self, tmp_path: Path) -> None:
        async with serving(tmp_path, piped(), ["kit"]) as client:
            assert {"kit__add", "kit__fail"} <= set(await tools_of(client, "clerk"))
            assert await ask(client, "clerk", "add 1 and 2") == "3"
            process = int(await ask(client, "clerk", "which process?"))
            marks = tmp_path / "marks"
            assert "was lost" in await ask(client, "clerk", f"strike {marks}")
            assert await ask(client, "clerk", "add 3 and 4") == "7"
            process = int(await ask(client, "clerk", "which process?"))
        assert await is_gone(process)

    async def test_it_has_only_the_tools_that_are_named(self, tmp_path: Path) -> None:
        async with serving(tmp_path, piped(), ["kit:add", "kit:fail"]) as client:
            assert await tools_of(client, "clerk") == ["kit__add", "kit__fail"]
            assert await ask(client, "clerk", "add 1 and 2") == "3"
            assert "There is no tool kit__process_id" in await ask(
                client, "clerk", "which process?"
            )

    async def test_a_tool_that_is_not_there_is_told_at_the_start(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"\[agents.clerk\] mcp: .* did you mean add\?"):
            async with serving(tmp_path, piped(), ["kit:ad"]):
                pass

    async def test_a_server_that_is_away_fails_the_runs_that_want_it(self, tmp_path: Path) -> None:
        http = HttpServer("modern")
        await http.start()
        await http.kill()
        try:
            async with serving(tmp_path, {"url": http.url}, ["kit:add"]) as client:
                assert await tools_of(client, "clerk") == []
                expected = "The MCP server kit cannot be reached."
                assert await ask(client, "clerk", "add 1 and 2") == expected
                assert "mine is empty" in await ask(client, "other", "hello")
                await http.start()
                await until(lambda: answers_run(client, "3"))
                assert await tools_of(client, "clerk") == ["kit__add"]
        finally:
            await http.kill()


async def tools_of(client: callboard.AsyncClient, name: str) -> list[str]:
    agents = await client.assistants.list_agents()
    return next(list(agent.tools) for agent in agents if agent.name == name)


async def answers_run(client: callboard.AsyncClient, text: str) -> bool:
    return await ask(client, "clerk", "add 1 and 2") == text
