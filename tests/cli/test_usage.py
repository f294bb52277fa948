"""What holds for all commands: options, exit codes, errors."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from callboard.cli.durations import format_duration, parse_duration
from callboard.cli.output import one_line, printable
from tests.cli.conftest import Run, environment, running


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port on which somebody listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_help_lists_commands_and_exit_codes(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    for text in ("jobs", "serve", "Exit codes:", "130  interrupted"):
        assert text in result.out
    assert run("-h").out == run().out == result.out


def test_version(run: Run) -> None:
    assert run("--version").out == "0.1.0\n"


def test_options_stand_before_and_after_the_command(
    run: Run, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLBOARD_SERVER", "127.0.0.1:1")
    before = run("--server", address, "--json", "agents")
    after = run("agents", "--server", f"grpc://{address}", "--json")
    assert before.code == after.code == 0
    assert before.objects == after.objects


@pytest.mark.parametrize("command", [["agents"], ["jobs", "watch", "id"]], ids=" ".join)
def test_a_server_that_is_down_is_told_soon(run: Run, command: list[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    start = time.monotonic()
    result = run("--server", address, "--timeout", "500ms", *command)
    assert time.monotonic() - start < 3
    assert (result.code, result.out) == (3, "")
    assert result.err.splitlines() == [
        f"error: no Callboard server answers at {address}",
        "hint: is it running? callboard serve",
    ]


def test_a_server_that_says_nothing_is_told_soon(run: Run, silent_port: int) -> None:
    result = run("--server", f"127.0.0.1:{silent_port}", "--timeout", "200ms", "agents")
    assert result.code == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--server", "http://x", "agents"], "grpc://host:port"),
        (["--timeout", "soon", "agents"], "write 30s, 5m or 1h30m"),
        (["--colour"], "No such option: --colour"),
        (["agent"], "Did you mean 'agents'?"),
        (["agents", "all"], "extra argument"),
        (["serve", "--port", "70000"], "--port"),
    ],
    ids=" ".join,
)
def test_wrong_usage(run: Run, arguments: list[str], told: str) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert told in result.err


def test_a_reader_that_goes_away_is_no_error(address: str, cli: Run) -> None:
    job_id = cli("jobs", "launch", "count_words", "x", "--wait", "--json").objects[0]["job_id"]
    for flags in ([], ["--json"]):
        command = ("events", job_id, "--follow", *flags)
        with running(*command, env=environment(address)) as process:
            process.stdout.readline()
            process.stdout.close()
            cli("jobs", "update", job_id, "y")
            assert process.stderr.read() == ""
            assert process.wait(10) == 1


@pytest.mark.parametrize(
    ("missing", "arguments", "hint"),
    [
        ("typer", ["agents"], "pip install 'callboard[cli]'"),
        ("grpc_health", ["serve"], "pip install 'callboard[server]'"),
        ("watchfiles", ["serve", "--reload"], "pip install 'callboard[server]'"),
    ],
)
def test_a_missing_extra_is_named(
    project: object, missing: str, arguments: list[str], hint: str
) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from callboard.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=str(project), capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (2, "")
    error, advice = result.stderr.splitlines()
    assert error.startswith("error: ") and missing in error
    assert advice == f"hint: {hint}"


@pytest.mark.parametrize("loading", ["grpc", "typer", "callboard_server.transport"])
def test_an_interrupt_while_a_command_is_loaded_is_quiet(project: object, loading: str) -> None:
    code = f"""
import sys
class Interrupts:
    def find_spec(self, name, path, target=None):
        if name == {loading!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupts())
from callboard_command import main
sys.exit(main())
"""
    result = subprocess.run(
        [sys.executable, "-c", code, "serve", "--port", "0"], cwd=str(project), capture_output=True
    )
    assert (result.returncode, result.stdout, result.stderr) == (130, b"", b"")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("30s", 30), ("1.5h", 5400), ("1h30m", 5400), ("250ms", 0.25), ("2d", 172_800)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0s"),
        (0.84, "0.8s"),
        (9.99, "10s"),
        (59.7, "1m00s"),
        (184, "3m04s"),
        (7500, "2h05m"),
        (100_000, "1d03h"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_what_agents_write_cannot_command_the_terminal() -> None:
    assert printable("a\x1b]0;title\x07b\r\n\tc\x9b31m") == "a]0;titleb\n\tc31m"
    assert one_line(" a\n\x1b[31m b ") == "a [31m b"
