"""The registry: agents of every form, and what is said of those that are broken."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from callboard.v1.assistant_pb2 import Agent
from callboard.v1.message_pb2 import ContentBlock, Message, Role, Text
from callboard_server.agents.chat import ChatAgent
from callboard_server.agents.context import Context
from callboard_server.agents.errors import AgentError
from callboard_server.agents.loading import load
from callboard_server.agents.registry import AgentSpec, Registry
from callboard_server.agents.sync_context import SyncContext
from callboard_server.config import ConfigError, ServerConfig, load_config
from tests.server.doubles import RecordedWork, make_context, text_of, user

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def _imports() -> Iterator[None]:
    """Forgets what a test imported."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in sys.modules.keys() - modules:
        del sys.modules[name]


def load_agent(folder: Path, **settings: object) -> AgentSpec:
    config = ServerConfig.model_validate({"agents": {"it": settings}})
    agent = load(config, folder).get("it")
    assert agent is not None
    return agent


def load_code(folder: Path, code: str) -> AgentSpec:
    (folder / "its_code.py").write_text(code)
    return load_agent(folder, entrypoint="its_code.py:agent")


class TestForms:
    async def test_async_function(self) -> None:
        async def agent(ctx: Context) -> str:
            """Says who it is.

            At length.
            """
            return ctx.author

        spec = Registry.from_objects([agent]).get("agent")
        assert spec is not None
        assert (spec.kind, spec.description) == (Agent.KIND_FUNCTION, "Says who it is.")
        message = await spec.run(make_context())
        assert message is not None
        assert (text_of(message), message.role) == ("agent", Role.ROLE_ASSISTANT)

    async def test_plain_function_runs_in_a_thread(self) -> None:
        def agent(ctx: SyncContext) -> bool:
            assert isinstance(ctx, SyncContext)
            return threading.current_thread() is threading.main_thread()

        (spec,) = Registry.from_objects([agent])
        message = await spec.run(make_context())
        assert message is not None and text_of(message) == "false"

    async def test_factory_takes_the_configuration_and_is_closed(self) -> None:
        told: list[object] = []

        @asynccontextmanager
        async def agent(config: dict[str, object]) -> AsyncIterator[object]:
            """Repeats a word."""

            async def run(ctx: Context) -> object:
                return config["word"]

            yield run
            told.append("closed")

        (spec,) = Registry.from_objects([agent])
        assert spec.description == "Repeats a word."
        message = await spec.run(make_context(word="hello"))
        assert message is not None and text_of(message) == "hello"
        assert told == ["closed"]

    async def test_factory_that_yields_no_agent(self) -> None:
        @asynccontextmanager
        async def agent(config: dict[str, object]) -> AsyncIterator[object]:
            yield 3

        (spec,) = Registry.from_objects([agent])
        with pytest.raises(AgentError, match="What the agent's factory yields is int"):
            await spec.run(make_context())

    async def test_chat_agent_in_code(self, tmp_path: Path) -> None:
        spec = load_code(
            tmp_path,
            "from callboard_server.agents.chat import ChatAgent\n"
            "def look(): 'Looks.'\n"
            "agent = ChatAgent('offline:', tools=[look])\n",
        )
        assert (spec.kind, spec.model, spec.tools) == (Agent.KIND_CHAT, "offline:", ("look",))
        assert "max_turns" in spec.config_schema["properties"]
        message = await spec.run(make_context(RecordedWork(user("hi"))))
        assert message is not None and message.message_id

    def test_chat_agent_in_the_configuration(self) -> None:
        registry = load(load_config(EXAMPLES / "callboard.toml"), EXAMPLES)
        assert registry.names == ["coder", "researcher", "supervisor"]
        kinds = {agent.kind for agent in registry}
        assert kinds == {Agent.KIND_CHAT}
        tools = {agent.name: agent.tools for agent in registry}
        assert tools["researcher"] == ("search_documents",)
        assert set(tools["supervisor"]) == {
            f"{verb}_job" for verb in ("launch", "check", "update", "cancel")
        } | {"list_jobs"}

    def test_package_and_timeout(self, tmp_path: Path) -> None:
        (tmp_path / "its_package").mkdir()
        (tmp_path / "its_package/agents.py").write_text("async def agent(ctx): ...")
        sys.path.insert(0, str(tmp_path))
        spec = load_agent(tmp_path, entrypoint="its_package.agents:agent", timeout=3)
        assert spec.timeout == 3

    def test_files_import_their_neighbours(self, tmp_path: Path) -> None:
        (tmp_path / "its_neighbour.py").write_text("async def agent(ctx): ...")
        load_code(tmp_path, "from its_neighbour import agent")


class TestResults:
    @pytest.mark.parametrize("result", [{"a": [1, None]}, ["é"], {}, 3])
    async def test_values_become_json(self, result: object) -> None:
        async def agent(ctx: Context) -> object:
            return result

        (spec,) = Registry.from_objects([agent])
        message = await spec.run(make_context())
        assert message is not None and json.loads(text_of(message)) == result

    async def test_none_and_messages_stay(self) -> None:
        message = Message(role=Role.ROLE_ASSISTANT, content=[ContentBlock(text=Text(text="x"))])
        for result in (None, message):

            async def agent(ctx: Context, result: Message | None = result) -> object:
                return result

            (spec,) = Registry.from_objects([agent])
            assert await spec.run(make_context()) is result

    async def test_what_is_no_json(self) -> None:
        async def agent(ctx: Context) -> object:
            return threading.Lock()

        (spec,) = Registry.from_objects([agent])
        with pytest.raises(AgentError, match=r"result \(lock\) cannot be shown as JSON"):
            await spec.run(make_context())


class TestBroken:
    @pytest.mark.parametrize(
        ("code", "problem"),
        [
            ("x = 1\nagent = nme", "its_code.py:2: NameError: name 'nme' is not defined"),
            ("\ndef agent(:", "its_code.py:2: SyntaxError: invalid syntax"),
            ("import its_missing", "its_code.py:1: ModuleNotFoundError: No module named"),
            ("import sys\nsys.exit('no')", "its_code.py:2: SystemExit: no"),
            ("def f(): json()\nimport json\nf()", "its_code.py:1: TypeError"),
            ("agnt = 1", "its_code.py has no object agent; did you mean agnt?"),
            ("agent = 1", "is int and cannot be called"),
            ("class agent: ...", "is type and cannot be called"),
            ("async def agent(): ...", "its_code.py:1: takes (), not one argument"),
            ("async def agent(ctx, other): ...", "takes (ctx, other), not one argument"),
            ("async def agent(ctx):\n  yield", "decorate it with @asynccontextmanager"),
            (
                "from callboard_server.agents.context import Context\ndef agent(ctx: Context): ...",
                "takes Context, but should take SyncContext",
            ),
        ],
    )
    def test_code_is_told_by_place_and_reason(
        self, tmp_path: Path, code: str, problem: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            load_code(tmp_path, code)
        assert problem in str(caught.value)
        assert '[agents.it] entrypoint "its_code.py:agent"' in str(caught.value)

    @pytest.mark.parametrize(
        ("entrypoint", "problem"),
        [
            ("none.py:agent", "there is no file"),
            ("agent", "is not written as"),
            ("its_missing.module:agent", "No module named 'its_missing'"),
            ("json.py:agent", "json.py is hidden by another module json"),
        ],
    )
    def test_entrypoints(self, tmp_path: Path, entrypoint: str, problem: str) -> None:
        (tmp_path / "json.py").write_text("")
        with pytest.raises(ConfigError, match=r"^\[agents\.it\] entrypoint ") as caught:
            load_agent(tmp_path, entrypoint=entrypoint)
        assert problem in str(caught.value)

    @pytest.mark.parametrize(
        ("tools", "problem"),
        [
            (["its_tools.py:untyped"], "untyped: the parameter x has no type"),
            (["its_tools.py:number"], "is int, not a function"),
            (["its_tools.py:none"], "has no object none"),
            (["its_tools.py:fine", "its_tools.py:fine"], "two tools of the name fine"),
        ],
    )
    def test_tools(self, tmp_path: Path, tools: list[str], problem: str) -> None:
        (tmp_path / "its_tools.py").write_text("number = 1\ndef untyped(x): ...\ndef fine(): ...\n")
        with pytest.raises(ConfigError, match=r"^\[agents\.it\] ") as caught:
            load_agent(tmp_path, model="offline:", tools=tools)
        assert problem in str(caught.value)

    def test_model(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"^\[agents\.it\] model: 'gpt' is no model"):
            load_agent(tmp_path, model="gpt")

    def test_a_key_that_is_missing_is_told_at_the_start(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
        told = "anthropic has no key: set the environment variable ANTHROPIC_API_KEY"
        with pytest.raises(ConfigError) as caught:
            load_agent(tmp_path, model="anthropic:m")
        assert str(caught.value).startswith(f"[agents.it] model: {told}")
        with pytest.raises(ConfigError) as caught:
            Registry.from_objects({"coded": ChatAgent("anthropic:m")})
        assert str(caught.value).startswith(f"agent coded: model: {told}")
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk")
        assert load_agent(tmp_path, model="anthropic:m").model == "anthropic:m"

    @pytest.mark.parametrize(
        ("settings", "problem"),
        [
            ({"tool_policy": {"look": "ask"}}, "tool_policy: there is no tool look; there are"),
            (
                {"output_schema": {"type": "strin"}},
                "output_schema: is no JSON Schema: type: 'strin'",
            ),
            ({"max_cost": 1.0}, "max_cost: it is not known what offline: costs"),
            (
                {"client_tools": [{"name": "a b", "description": ""}]},
                "tools: 'a b' is no name for a tool",
            ),
            (
                {"client_tools": [{"name": "a", "description": ""}] * 2},
                "tools: there are two tools of the name a",
            ),
            (
                {"client_tools": [{"name": "a", "description": "", "parameters": {"type": 3}}]},
                "tools: the parameters of a: is no JSON Schema",
            ),
        ],
    )
    def test_settings_that_cannot_be_had(
        self, settings: dict[str, object], problem: str, tmp_path: Path
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            load_agent(tmp_path, model="offline:", **settings)
        assert str(caught.value).startswith(f"[agents.it] {problem}")

    def test_names_are_unique(self) -> None:
        async def agent(ctx: Context) -> None: ...

        with pytest.raises(ConfigError, match="two agents of the name agent"):
            Registry.from_objects([agent, agent])
