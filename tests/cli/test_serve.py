"""`callboard serve` and `callboard db`."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Run, command, read_ready, running


@pytest.fixture
def folder(project: Path, tmp_path: Path) -> Path:
    """A project of the test's own."""
    for name in ("agents.py", "assistant.toml", "callboard.toml"):
        shutil.copy(project / name, tmp_path)
    return tmp_path


def fail_to_serve(folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        command("serve", *arguments), cwd=folder, capture_output=True, text=True, timeout=20
    )
    assert (result.returncode, result.stdout) == (1, "")
    return result.stderr


def test_says_when_it_is_ready_and_stops_in_good_order(folder: Path) -> None:
    with running("serve", "--port", "0", "--db", "jobs.db", cwd=folder) as process:
        ready = process.stdout.readline()
        assert ready.startswith("ready on 127.0.0.1:")
        assert ready.endswith("agents: assistant, count_words, countdown · db: jobs.db\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert (folder / "jobs.db").is_file()


def test_without_a_configuration(tmp_path: Path) -> None:
    assert fail_to_serve(tmp_path).splitlines() == [
        "error: there is no file callboard.toml",
        "hint: callboard init writes one",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[server]\nprot = 1", "server.prot: is not known; did you mean port?"),
        ('[agents.a]\nentrypoint = "broken.py:agent"', "broken.py:1: ModuleNotFoundError"),
        ('[server]\ndb = "agents.py"', "is not a SQLite database"),
    ],
    ids=["configuration", "entrypoint", "database"],
)
def test_a_broken_configuration_is_a_line(folder: Path, content: str, told: str) -> None:
    (folder / "broken.py").write_text("import nothing_of_that_name")
    (folder / "callboard.toml").write_text(content)
    [line] = fail_to_serve(folder, "--port", "0").splitlines()
    assert line.startswith("error: ")
    assert told in line


def test_a_port_in_use(folder: Path, address: str) -> None:
    error, hint = fail_to_serve(folder, "--port", address.rpartition(":")[2]).splitlines()
    assert error == f"error: cannot listen on {address}: Address already in use"
    assert hint.startswith("hint: take another port")


def test_reload_survives_a_broken_edit(folder: Path) -> None:
    config = folder / "callboard.toml"
    whole = config.read_text()
    with running("--json", "serve", "--port", "0", "--reload", cwd=folder) as process:
        assert "count_words" in read_ready(process)["agents"]
        config.write_text("[agents.a]\n")
        error = next(line for line in process.stderr if line.startswith("error: "))
        assert "needs either entrypoint or model" in error
        config.write_text(
            whole.replace("agents.count_words", "agents.words").split("# An agent")[0]
        )
        assert read_ready(process)["agents"] == ["countdown", "words"]
        (folder / "agents.py").touch()
        assert read_ready(process)["agents"] == ["countdown", "words"]
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(20) == 0
    assert "agents.py changed" in rest
    assert "Traceback" not in rest


def test_reload_ends_with_ctrl_c(folder: Path) -> None:
    with running("--json", "serve", "--port", "0", "--reload", cwd=folder) as process:
        read_ready(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_backup_and_check_while_the_server_runs(
    run: Run, project: Path, address: str, tmp_path: Path
) -> None:
    source, target = str(project / "callboard.db"), str(tmp_path / "copy.db")
    assert run("db", "backup", source, target).out.startswith(f"copied {source} to {target}: ")
    assert run("db", "check", target).out == f"{target} is sound\n"
    [checked] = run("db", "check", source, "--json").objects
    assert checked == {"path": source, "problems": []}
    again = run("db", "backup", source, target)
    assert again.code == 1
    assert "exists already" in again.err
    [copied] = run("--json", "db", "backup", source, f"{target}.2").objects
    assert copied["bytes"] == Path(f"{target}.2").stat().st_size


def test_check_tells_what_is_wrong(run: Run, cli: Run, project: Path, tmp_path: Path) -> None:
    copy = str(tmp_path / "copy.db")
    cli("jobs", "launch", "count_words", "a b", "--wait")
    run("db", "backup", str(project / "callboard.db"), copy)
    with sqlite3.connect(copy) as connection:
        connection.execute("UPDATE sessions SET head = head + 1")
    connection.close()
    result = run("db", "check", copy)
    assert result.code == 1
    assert result.err.startswith("error: session ")
    problems = run("db", "check", copy, "--json")
    assert problems.code == 1
    assert problems.objects[0]["problems"]


@pytest.mark.parametrize("name", ["none.db", "agents.py"])
def test_what_is_no_database(run: Run, folder: Path, name: str) -> None:
    for words in (["check", str(folder / name)], ["backup", str(folder / name), "copy.db"]):
        result = run("db", *words)
        assert result.code == 1
        [line] = result.err.splitlines()
        assert line.startswith("error: ")
