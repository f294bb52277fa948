"""The documents say what the code says: commands, settings, RPCs, states, what is missing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from typer.main import get_command

from callboard.cli.app import app
from callboard.v1 import assistant_pb2, job_pb2, run_pb2, server_pb2, thread_pb2
from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.message_pb2 import StopReason
from callboard_server.agents import model_calls
from callboard_server.config import (
    AgentSettings,
    CallableAssistant,
    ClientToolSettings,
    DelegationSettings,
    McpSettings,
    PriceSettings,
    ProviderSettings,
    ServerSettings,
    StoreSettings,
    SweepSettings,
    WebhookSettings,
    WorkspaceSettings,
)
from callboard_server.engine.lifecycle import TERMINAL, TRANSITIONS
from callboard_server.models import anthropic, openai_chat
from tests.docs.markdown import MANUALS, PAGES, README, ROOT, blocks, table
from tests.docs.transcript import commands

CONTRACT, OPERATING, PROVIDERS = (
    ROOT / "docs" / name for name in ("contract.md", "operating.md", "providers.md")
)
SERVICES = [
    service
    for module in (assistant_pb2, job_pb2, run_pb2, server_pb2, thread_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]


def typed(page: Path) -> list[str]:
    """The commands of a document."""
    shown = (block.text for block in blocks(page) if block.language == "console")
    return [command.line for text in shown for command in commands(text)]


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


class TestReadme:
    def test_is_not_long(self) -> None:
        assert README.read_text("utf-8").count("\n") <= 270

    def test_is_shown_with_the_package(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        assert project["readme"] == README.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
class TestEveryPage:
    def test_links_lead_somewhere(self, page: Path) -> None:
        links = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
        for link in links:
            if not link.startswith("https://"):
                name, _, anchor = link.partition("#")
                target = (page.parent / name).resolve() if name else page
                assert target.exists(), f"{link} leads nowhere"
                assert not anchor or anchor in anchors(target), f"{link}: there is no such heading"

    def test_make_targets_exist(self, page: Path) -> None:
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
        text = page.read_text("utf-8")
        wanted = {
            name for words in re.findall(r"`make ((?:[a-z-]+ ?)+)", text) for name in words.split()
        } | {line.split()[1] for line in typed(page) if line.startswith("make ")}
        assert wanted <= set(targets), wanted - set(targets)

    def test_no_place_of_one_machine_is_named(self, page: Path) -> None:
        assert not re.search(r"(?<!\w)/(work|root|home|Users)/", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", each).strip().lower().replace(" ", "-") for each in headings}


def test_what_is_installed_by_pip_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    lines = [line for page in MANUALS for line in typed(page) if line.startswith("pip install ")]
    assert lines
    for line in lines:
        named = re.fullmatch(r"pip install '\.\[(\w+)\]'", line)
        assert named and named[1] in extras, line
    assert shutil.which("buf", path=str(Path(sys.executable).parent)), "buf-bin has no buf"


def test_every_file_shown_is_used() -> None:
    for page in MANUALS:
        shown = blocks(page)
        for block in shown:
            others = "".join(each.text for each in shown if each is not block)
            default = block.file in ("", "callboard.toml", "buf.gen.yaml")
            assert default or block.file in others, f"{block.place}: {block.file} is not used"


class TestContract:
    def test_names_every_rpc_with_its_service(self) -> None:
        cells = table(CONTRACT, "# The contract")
        told = {cell.partition(":")[0]: cell.partition(":")[2] for _, cell in cells}
        for service in SERVICES:
            names = [name.strip() for name in told[service.name].split(",")]
            assert names == [method.name for method in service.methods]

    def test_errors_are_those_of_the_proto(self) -> None:
        checked = subprocess.run(
            [sys.executable, ROOT / "scripts" / "reasons.py", "--check"],
            capture_output=True,
            text=True,
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr

    def test_states_are_those_of_the_engine(self) -> None:
        [diagram] = [block.text for block in blocks(CONTRACT) if block.language == "mermaid"]
        shown = set(re.findall(r"^    (\w+) --> (\w+)$", diagram, re.M))
        legal = {
            (name(before), name(after)) for before, later in TRANSITIONS.items() for after in later
        }
        assert shown == legal
        assert {before for before, _ in shown}.isdisjoint(map(name, TERMINAL))


def name(state: int) -> str:
    return RunState.Name(RunState.ValueType(state)).removeprefix("RUN_STATE_")


class TestOperating:
    @pytest.mark.parametrize(
        ("heading", "model"),
        [
            ("### `[server]`", ServerSettings),
            ("### `[store]`", StoreSettings),
            ("### `[sweep]`", SweepSettings),
            ("### `[delegation]`", DelegationSettings),
            ("### `[agents.NAME]`", AgentSettings),
            ("### `[[agents.NAME.callable_assistants]]`", CallableAssistant),
            ("### `[[agents.NAME.client_tools]]`", ClientToolSettings),
            ("### `[providers.NAME]`", ProviderSettings),
            ('### `[prices."PROVIDER:MODEL"]`', PriceSettings),
            ("### `[agents.NAME.workspace]`", WorkspaceSettings),
            ("### `[mcp.NAME]`", McpSettings),
            ("### `[webhooks.NAME]`", WebhookSettings),
        ],
    )
    def test_settings_are_those_of_the_server(self, heading: str, model: type[BaseModel]) -> None:
        told = [[key, kind, default] for key, kind, default, _ in table(OPERATING, heading)]
        assert told == list(settings(model))

    def test_names_every_command(self) -> None:
        told = set()
        for cell, _ in table(OPERATING, "## Looking at it"):
            first, *others = codes(cell)
            group = first.rpartition(" ")[0]
            told |= {first, *(f"{group} {other}" for other in others)}
        assert told == {f"callboard {command}" for command in walk(get_command(app))}


def settings(model: type[BaseModel]) -> Iterator[list[str]]:
    """The rows of the table of a section: key, type, default."""
    for key, schema in model.model_json_schema()["properties"].items():
        default = schema.get("default")
        yield [f"`{key}`", describe(schema), "" if default is None else f"`{written(default)}`"]


def describe(schema: dict[str, Any]) -> str:
    """A type in words."""
    if "anyOf" in schema:
        return describe(next(each for each in schema["anyOf"] if each.get("type") != "null"))
    if "$ref" in schema:
        return "table"
    if "enum" in schema:
        *others, last = [f"`{written(value)}`" for value in schema["enum"]]
        return f"{', '.join(others)} or {last}"
    if schema["type"] == "array":
        return f"list of {describe(schema['items'])}"
    if isinstance(entries := schema.get("additionalProperties"), dict):
        return f"table of {describe(entries)}"
    kind = "table" if schema["type"] == "object" else str(schema["type"])
    if "maximum" in schema:
        return f"{kind}, {schema['minimum']} to {schema['maximum']}"
    bounds = {"minimum": ">=", "exclusiveMinimum": ">"}
    bound = [f" {sign} {schema[key]:.15g}" for key, sign in bounds.items() if key in schema]
    return kind + "".join(bound)


def written(value: object) -> str:
    """A value as TOML writes it."""
    match value:
        case bool() | str() | list() | dict():
            return json.dumps(value)
        case _:
            return str(value)


def walk(command: Any) -> Iterator[str]:
    """The names of a command's subcommands, with those of their groups before them."""
    for word, each in command.commands.items():
        if hasattr(each, "commands"):
            yield from (f"{word} {rest}" for rest in walk(each))
        else:
            yield word


class TestProviders:
    @pytest.mark.parametrize(
        ("column", "known"),
        [(1, anthropic._STOP_REASONS), (3, openai_chat._STOP_REASONS)],
        ids=["messages", "chat completions"],
    )
    def test_stop_reasons_are_those_of_the_adapters(
        self, column: int, known: dict[str, StopReason.ValueType]
    ) -> None:
        rows = table(PROVIDERS, "### How an answer ends")
        told = {word: codes(row[0])[0] for row in rows for word in codes(row[column])}
        for word, reason in known.items():
            assert f"STOP_REASON_{told[word]}" == StopReason.Name(reason)

    def test_errors_are_those_of_failed_calls(self) -> None:
        told = {row[0].strip("`") for row in table(PROVIDERS, "### What goes wrong")}
        reasons = {*model_calls._REASONS.values(), ErrorReason.ERROR_REASON_MODEL_UNAVAILABLE}
        assert told == {
            ErrorReason.Name(reason).removeprefix("ERROR_REASON_") for reason in reasons
        }
