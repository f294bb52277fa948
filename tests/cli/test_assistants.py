"""`callboard assistants`."""

from __future__ import annotations

import io
import json
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Result, Run


def make(cli: Run, *options: str) -> str:
    return cli("assistants", "create", "assistant", *options).out.strip()


def shown(result: Result) -> dict[str, Any]:
    [assistant] = result.objects
    return assistant


def change(cli: Run, assistant_id: str, *options: str) -> dict[str, Any]:
    return shown(cli("assistants", "update", assistant_id, *options, "--json"))


def test_what_is_created_is_shown_and_listed(cli: Run) -> None:
    created = cli(
        *("assistants", "create", "assistant", "--name", "Ada", "--description", "Counts."),
        *("--set", "system=Be brief.", "--set", "max_turns=3", "--metadata", "team.name=x"),
    )
    assistant_id = created.out.strip()
    assert created.err == f"talk to it: callboard chat {assistant_id}\n"
    assistant = shown(cli("assistants", "get", assistant_id, "--json"))
    assert (assistant["name"], assistant["description"]) == ("Ada", "Counts.")
    assert assistant["config"] == {"system": "Be brief.", "max_turns": 3}
    assert assistant["metadata"] == {"team": {"name": "x"}}
    text = cli("assistants", "get", assistant_id).out
    for word in (
        assistant_id,
        "Ada",
        "Counts.",
        '"system": "Be brief."',
        '{"team": {"name": "x"}}',
    ):
        assert word in text
    header, first, *_ = cli("assistants", "list", "--agent", "assistant").lines
    assert header.split() == ["assistant", "name", "agent", "version", "created", "description"]
    assert first.split()[:4] == [assistant_id, "Ada", "assistant", "1"]
    [found] = cli("assistants", "list", "--metadata", "team.name=x", "--json").objects
    assert found == assistant
    assert cli("assistants", "list", "--agent", "nobody").out == "There are no assistants.\n"
    default = cli("assistants", "list", "--agent", "countdown").lines[1]
    assert default.split()[1:4] == ["countdown", "countdown", "default"]


def test_it_does_the_work(cli: Run) -> None:
    assistant_id = cli("assistants", "create", "count_words", "--name", "Ada").out.strip()
    job = shown(cli("jobs", "launch", assistant_id, "to be", "--wait", "--json"))
    assert job["outcome"]["result"]["author"] == "Ada"


def test_an_update_changes_what_it_names(cli: Run) -> None:
    assistant_id = make(cli, "--set", "system=a", "--set", "max_turns=3", "--metadata", "a.b=1")
    changed = change(cli, assistant_id, "--set", "system=b", "--metadata", "a.c=[2]")
    assert (changed["version"], changed["name"]) == (2, "assistant")
    assert changed["config"] == {"system": "b", "max_turns": 3}
    assert changed["metadata"] == {"a": {"b": 1, "c": [2]}}
    changed = change(cli, assistant_id, "--unset", "max_turns", "--name", "Bob")
    assert (changed["config"], changed["name"]) == ({"system": "b"}, "Bob")
    assert change(cli, assistant_id, "--name", "Bob")["version"] == 3
    assert "Bob" in cli("assistants", "update", assistant_id, "--description", "New.").out


def test_a_whole_configuration_comes_from_where_config_says(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"system": "from a file", "max_turns": 2}))
    assistant_id = make(cli, "--config", str(file), "--set", "max_turns=5")
    assistant = shown(cli("assistants", "get", assistant_id, "--json"))
    assert assistant["config"] == {"system": "from a file", "max_turns": 5}
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"system": "typed"}'))
    assert change(cli, assistant_id, "--config", "-")["config"] == {"system": "typed"}
    inline = ' {"system": "right here"}'
    assert change(cli, assistant_id, "--config", inline)["config"] == {"system": "right here"}
    assert shown(cli("assistants", "get", make(cli, "--config", inline), "--json"))["config"] == {
        "system": "right here"
    }


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("{", "--config holds no JSON: Expecting property name"),
        ('{"a": ' * 100_000, "--config holds no JSON: "),
        ("-", "standard input holds no JSON object; write one, as {}"),
        (".", ". cannot be read: Is a directory"),
    ],
    ids=["half", "deep", "list", "folder"],
)
def test_what_is_no_configuration(
    cli: Run, monkeypatch: pytest.MonkeyPatch, given: str, told: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("[]"))
    refused = cli("assistants", "create", "assistant", "--config", given)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith(f"error: {told}")


def test_versions_and_the_way_back(cli: Run) -> None:
    assistant_id = make(cli, "--name", "Ada", "--set", "system=a")
    change(cli, assistant_id, "--name", "Bob", "--set", "system=b")
    back = shown(cli("assistants", "use", assistant_id, "1", "--json"))
    assert (back["version"], back["name"], back["config"]) == (1, "Ada", {"system": "a"})
    header, second, first = cli("assistants", "versions", assistant_id).lines
    assert header.split() == ["version", "made", "name", "config"]
    assert second.split()[0] == "2"
    assert second.endswith('Bob   {"system": "b"}')
    assert first.split()[:2] == ["1", "current"]
    listed = cli("assistants", "versions", assistant_id, "--limit", "1", "--json").objects
    assert [each["version"] for each in listed] == [2]
    old = shown(cli("assistants", "get", assistant_id, "--version", "2", "--json"))
    assert old["name"] == "Bob"
    missing = cli("assistants", "use", assistant_id, "3")
    assert missing.code == 4
    assert "its versions are 1 to 2" in missing.err


def test_delete(cli: Run) -> None:
    assistant_id = make(cli)
    deleted = cli("assistants", "delete", assistant_id, "--yes")
    assert (deleted.code, deleted.out) == (0, f"deleted {assistant_id}\n")
    again = cli("assistants", "delete", assistant_id, "--yes")
    assert again.code == 4
    assert again.err.endswith("hint: callboard assistants list\n")
    other = make(cli)
    result = cli("assistants", "delete", other, "--yes", "--json")
    assert result.objects == [{"deleted_assistant_id": other}]


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (["create", "nobody"], 4, "there is no agent 'nobody'"),
        (["create", "assistant", "--set", "sistem=a"], 2, "config.sistem: is not known; did you"),
        (["create", "assistant", "--set", "system=4"], 2, "config.system: must be text, not 4"),
        (["create", "assistant", "--set", "system"], 2, "'system' has no value; write KEY=VALUE"),
        (["create", "assistant", "--config", "none.json"], 2, "none.json cannot be read"),
        (["update", "assistant"], 2, "there is nothing to change"),
        (["update", "assistant", "--name", "x"], 1, "is the default assistant of an agent"),
        (["update", "x", "--config", "y", "--set", "a=1"], 2, "--config replaces the whole"),
        (["delete", "count_words", "--yes"], 1, "is the default assistant of an agent"),
        (["get", str(uuid.UUID(int=7))], 4, "there is no assistant or agent"),
        (["use", "assistant"], 2, "Missing argument 'VERSION'"),
    ],
)
def test_what_cannot_be_done_is_told(cli: Run, command: list[str], code: int, message: str) -> None:
    result = cli("assistants", *command)
    assert (result.code, result.out) == (code, "")
    assert message in result.err


@pytest.mark.parametrize("text", ["[1]", "{", "\udcff"])
def test_a_file_that_holds_no_configuration(cli: Run, tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    result = cli("assistants", "create", "assistant", "--config", str(file))
    assert result.code == 2
    assert f"{file} holds no JSON" in result.err.replace("\n", "")
