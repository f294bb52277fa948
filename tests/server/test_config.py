"""The configuration: what it takes, and how it says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from callboard_server.config import CallableAssistant, ConfigError, ServerConfig, load_config


def write(folder: Path, text: str) -> Path:
    path = folder / "callboard.toml"
    path.write_text(text)
    return path


def problem_of(folder: Path, text: str) -> str:
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    lines = str(caught.value).split("\n")
    assert all(line.startswith(f"{path}: ") for line in lines)
    return "\n".join(line.removeprefix(f"{path}: ") for line in lines)


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, ""))
    assert config == ServerConfig()
    assert (config.server.host, config.server.port) == ("127.0.0.1", 50051)
    assert (config.server.slots, config.server.grace) == (16, 10)
    assert config.store.synchronous == "FULL"


def test_reads_everything(tmp_path: Path) -> None:
    config = load_config(
        write(
            tmp_path,
            """
            [server]
            host = "::1"
            port = 0
            grace = 3
            log_format = "json"
            [store]
            synchronous = "NORMAL"
            [agents.writer]
            description = "Writes."
            entrypoint = "agents.py:writer"
            timeout = 60
            [agents.boss]
            model = "offline:boss.toml"
            system = "Lead."
            tools = ["tools.py:look"]
            max_turns = 5
            callable_assistants = [
                "writer",
                { id = "4f5c3a90-6d1e-4b7a-9c58-0e2d7f61b3aa", version = 2, mode = "sync" },
            ]
            [agents.boss.tool_policy]
            look = "ask"
            [[agents.boss.client_tools]]
            name = "position"
            description = "Tell where the user is."
            [providers.anthropic]
            api_key_file = "keys/anthropic"
            [providers.local]
            kind = "openai-chat"
            base_url = "http://127.0.0.1:11434/v1"
            [prices."local:llama3:8b"]
            input = 0
            output = 0.5
            """,
        )
    )
    assert (config.server.host, config.server.port, config.server.grace) == ("::1", 0, 3.0)
    assert config.agents["writer"].timeout == 60
    called = config.agents["boss"].callable_assistants
    assert called is not None
    writer, reader = called
    assert writer == CallableAssistant(id="writer")
    assert (reader.id[:8], reader.version, reader.mode) == ("4f5c3a90", 2, "sync")
    assert list(config.agents) == ["writer", "boss"]
    assert config.agents["boss"].tool_policy == {"look": "ask"}
    [client_tool] = config.agents["boss"].client_tools
    assert client_tool.parameters == {"type": "object"}
    assert config.providers["local"].base_url == "http://127.0.0.1:11434/v1"
    assert config.prices["local:llama3:8b"].output == 0.5


def test_is_frozen() -> None:
    with pytest.raises(ValidationError):
        ServerConfig().server.port = 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '[agents.researcher]\nentrypont = "a.py:b"',
            "agents.researcher.entrypont: is not known; did you mean entrypoint?",
        ),
        ("[servers]", "servers: is not known; did you mean server?"),
        ("[server]\nzzz = 1", "server.zzz: is not known; known are: host, port, "),
        ('[server]\nport = "50051"', "server.port: must be a whole number, not text"),
        ("[server]\nport = 65536", "server.port: must be at most 65535, not 65536"),
        ("[server]\nslots = 0", "server.slots: must be more than 0, not 0"),
        ("[server]\nslots = true", "server.slots: must be a whole number, not a boolean"),
        (
            "[server]\nmax_message_bytes = 1000000",
            "server.max_message_bytes: must be at least 16777216, not 1000000",
        ),
        ("[store]\nsynchronous = 2026-01-01", 'store.synchronous: "2026-01-01" is not one of'),
        (
            "[server]\nport = 2026-01-01",
            "server.port: must be a whole number, not of the type date",
        ),
        ("server = 3", "server: must be an object, not 3"),
        (
            '[store]\nsynchronous = "OFF"',
            "store.synchronous: 'OFF' is not one of: FULL, NORMAL",
        ),
        ("[agents.a]", "agents.a: needs either entrypoint or model"),
        ('[agents.a]\nentrypoint = "a:b"\nmodel = "m"', "agents.a: needs either"),
        (
            '[agents.a]\nentrypoint = "a:b"\ntools = []\nsystem = ""',
            "agents.a: an entrypoint has no system, tools: that goes with a model",
        ),
        (
            '[agents.a]\nmodel = "m"\ntools = [3]',
            "agents.a.tools[0]: must be text, not 3",
        ),
        (
            '[agents.a]\nentrypoint = "a:b"\nmax_cost = 1.0',
            "agents.a: an entrypoint has no max_cost: that goes with a model",
        ),
        (
            '[agents.a]\nmodel = "m"\ntool_policy = { x = "aks" }',
            "agents.a.tool_policy.x: 'aks' is not one of: allow, ask, deny",
        ),
        ("[providers.local]", "providers.local.kind: is required"),
        (
            '[providers.local]\nkind = "ollama"',
            "providers.local.kind: 'ollama' is not one of: anthropic, openai, openai-chat",
        ),
        ('[providers.offline]\nkind = "openai"', "providers.offline: a name is a letter"),
        (
            '[providers.openai]\napi_key_env = "A"\napi_key_file = "b"',
            "providers.openai: has its key from api_key_env or api_key_file, not from both",
        ),
        (
            '[providers.openai]\nbase_url = "https://me:secret@example.com/v1"',
            "providers.openai: base_url must begin with http:// or https:// and hold no password",
        ),
        (
            '[providers.openai]\napi_key = "sk-1"',
            "providers.openai.api_key: is not known; did you mean api_key_env?",
        ),
        (
            '[prices."opnai:gpt"]\ninput = 1.0\noutput = 1.0',
            "prices.opnai:gpt: there is no provider opnai; did you mean openai?",
        ),
        ('[prices."openai:gpt"]\ninput = 1.0', "prices.openai:gpt.output: is required"),
        ('[agents."a b"]\nmodel = "m"', "agents.a b: a name is a letter and up to 63"),
        (
            '[agents.abcdefabcdefabcdefabcdefabcdefab]\nmodel = "m"',
            "agents.abcdefabcdefabcdefabcdefabcdefab: a name is a letter",
        ),
        (
            '[agents.coder]\nmodel = "m"\n[agents.a]\nmodel = "m"\ncallable_assistants = ["codr"]',
            "agents.a.callable_assistants: there is no agent codr; did you mean coder?",
        ),
        (
            '[agents.a]\nmodel = "m"\ncallable_assistants = [{ id = "a", version = 2 }]',
            "agents.a.callable_assistants: agent a has version 1 alone; assistants have more",
        ),
        (
            '[agents.a]\nmodel = "m"\ncallable_assistants = ["a", { id = "a", context = "fork" }]',
            "agents.a.callable_assistants: a is named twice for the same mode",
        ),
        (
            '[agents.a]\nmodel = "m"\ncallable_assistants = ["a", 3]',
            "agents.a.callable_assistants[1]: must be a name, or a table with an id",
        ),
        (
            '[agents.a]\nmodel = "m"\ncallable_assistants = [{ id = "a", mode = "wait" }]',
            "agents.a.callable_assistants[0].mode: 'wait' is not one of: async, sync",
        ),
        (
            '[agents.a]\nmodel = "m"\ncallable_assistants = [{ name = "a" }]',
            "agents.a.callable_assistants[0].name: is not known; known are: id, version, mode",
        ),
        (
            '[agents.a]\nmodel = "m"\ncallable_agents = ["a"]',
            "agents.a.callable_agents: is not known; did you mean callable_assistants?",
        ),
        ("[delegation]\ndepth = 0", "delegation.depth: must be more than 0, not 0"),
        ("[server\n", "Expected"),
    ],
)
def test_names_file_key_and_reason(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in problem_of(tmp_path, text)


class TestVariables:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.delenv("CALLBOARD_TEST_MODEL", raising=False)
        return tmp_path

    def model_of(self, folder: Path, written: str) -> str | None:
        return load_config(write(folder, f'[agents.a]\nmodel = "{written}"')).agents["a"].model

    def test_stand_for_their_values(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CALLBOARD_TEST_MODEL", "anthropic:x")
        assert self.model_of(folder, "${CALLBOARD_TEST_MODEL}") == "anthropic:x"
        assert self.model_of(folder, "${CALLBOARD_TEST_MODEL:-offline:a.toml}") == "anthropic:x"

    def test_have_defaults(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        written = "${CALLBOARD_TEST_MODEL:-offline:a.toml}"
        assert self.model_of(folder, written) == "offline:a.toml"
        monkeypatch.setenv("CALLBOARD_TEST_MODEL", "")
        assert self.model_of(folder, written) == "offline:a.toml"

    def test_must_be_set_where_there_is_no_default(self, folder: Path) -> None:
        text = '[agents.a]\nmodel = "${CALLBOARD_TEST_MODEL}"'
        assert problem_of(folder, text) == (
            "agents.a.model: the environment variable CALLBOARD_TEST_MODEL is not set; "
            "set it, or write ${CALLBOARD_TEST_MODEL:-VALUE}"
        )

    def test_are_text_elsewhere(self, folder: Path) -> None:
        text = '[agents.a]\nmodel = "offline:"\nsystem = "${CALLBOARD_TEST_MODEL}"'
        config = load_config(write(folder, text))
        assert config.agents["a"].system == "${CALLBOARD_TEST_MODEL}"


def test_names_everything_that_is_wrong(tmp_path: Path) -> None:
    assert len(problem_of(tmp_path, "[server]\nprt = 1\nslots = 0").split("\n")) == 2


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"callboard\.toml: No such file"):
        load_config(tmp_path / "callboard.toml")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])
def test_an_address_that_others_reach_must_be_meant(tmp_path: Path, host: str) -> None:
    text = f'[server]\nhost = "{host}"\n'
    assert f"server: host {host} can be reached by others" in problem_of(tmp_path, text)
    config = load_config(write(tmp_path, text + "insecure_bind = true"))
    assert config.server.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_word(tmp_path: Path, host: str) -> None:
    assert load_config(write(tmp_path, f'[server]\nhost = "{host}"')).server.host == host


def test_values_of_the_command_line_go_first_and_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path, "[server]\nport = 1\nslots = 2")
    server = load_config(path, {"port": 3}).server
    assert (server.port, server.slots) == (3, 2)
    with pytest.raises(ConfigError, match=r"server: host 0\.0\.0\.0 can be reached"):
        load_config(path, {"host": "0.0.0.0"})
