"""`callboard init`."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Run

FILES = {"agents.py", "assistant.toml", "callboard.toml"}


def test_writes_a_project_and_says_how_to_go_on(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "demo"
    result = run("init", str(folder))
    assert result.code == 0
    assert {path.name for path in folder.iterdir()} == FILES
    assert f"cd {folder}" in result.out
    assert "callboard serve" in result.out


def test_never_overwrites_a_file(run: Run, tmp_path: Path) -> None:
    mine = tmp_path / "agents.py"
    mine.write_text("# mine")
    result = run("init", str(tmp_path))
    assert result.code == 1
    assert result.err.startswith(f"error: {mine} exists already")
    assert mine.read_text() == "# mine"
    assert [path.name for path in tmp_path.iterdir()] == ["agents.py"]


def test_twice_changes_nothing(run: Run, tmp_path: Path) -> None:
    assert run("init", str(tmp_path)).code == 0
    assert run("init", str(tmp_path)).code == 1


def test_says_where_it_cannot_write(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("init", str(tmp_path / "file"))
    assert result.code == 1
    assert result.err.startswith(f"error: {tmp_path / 'file'}: ")


def test_json_names_the_files(run: Run, tmp_path: Path) -> None:
    [written] = run("--json", "init", str(tmp_path)).objects
    assert {Path(path).name for path in written["files"]} == FILES
