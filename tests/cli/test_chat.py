"""`callboard chat`."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from tests.cli.conftest import Result, Run, environment, running
from tests.cli.terminal import Terminal

Say = Callable[..., Result]


@pytest.fixture
def say(cli: Run, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Pipes lines into a conversation."""

    def talk(text: str, *arguments: str) -> Result:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        return cli("chat", *arguments)

    return talk


def test_each_line_is_a_message(say: Say) -> None:
    result = say("nonsense\n\n  count down from 1 \nstatus\n")
    assert result.code == 0
    assert "Say, for example:\n- count down from 8" in result.out
    called, launched = result.lines[4:6]
    assert called.startswith('  ⚙ launch_job(agent="countdown", task="1") · ok, ')
    assert launched.startswith("countdown is at work as job ")
    assert any(line.startswith("  ⚙ list_jobs() · ok, ") for line in result.lines)
    assert result.err == ""


def test_no_input_is_no_conversation(say: Say, cli: Run) -> None:
    def newest() -> object:
        return cli("threads", "list", "--limit", "1", "--json").objects[0]["thread_id"]

    cli("jobs", "launch", "count_words", "x", "--wait")
    before = newest()
    assert (say("", "assistant").code, say("\n \n").out) == (0, "")
    assert newest() == before


def test_a_function_agent_answers_too(say: Say) -> None:
    result = say("to be or not to be", "count_words")
    assert (result.code, result.out) == (0, "6 words, 4 of them different.\n")


def test_a_run_that_fails_is_told_and_fails_the_command(say: Say) -> None:
    result = say("nothing\n1\n", "countdown")
    assert result.code == 1
    assert result.err == "error: Tell me a number to count down from.\n"
    assert result.out == "Counted down from 1.\n"


def test_goes_on_with_a_thread(say: Say, cli: Run) -> None:
    events = say("one two", "count_words", "--json").objects
    thread_id = events[0]["thread_id"]
    result = say("three", "--thread", thread_id)
    assert result.out == "1 words, 1 of them different.\n"
    assert len(cli("threads", "messages", thread_id, "--json").objects) == 4


def test_json_is_the_events(say: Say) -> None:
    events = say("status", "assistant", "--json").objects
    sequences = [int(event["sequence"]) for event in events]
    assert sequences == sorted(set(sequences))
    assert any("tool_started" in event for event in events)


def test_a_reader_that_goes_away_is_no_error(address: str) -> None:
    with running("chat", "countdown", "--json", env=environment(address)) as process:
        assert process.stdin is not None
        assert process.stdout is not None and process.stderr is not None
        process.stdin.write("2\n")
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(10) == 1


def test_unknown_agent_and_thread(say: Say) -> None:
    assert say("x", "nobody").code == 4
    assert say("x", "--thread", "9b2c1f0e-3a64-4d0f-8f3b-6f2d1f1c0a55").code == 4


def test_typed_messages_and_an_interrupted_answer(address: str) -> None:
    with Terminal("chat", "countdown", env=environment(address)) as terminal:
        assert "Ctrl-D ends" in terminal.read_until("> ")
        terminal.type("100\n")
        terminal.read_until("99 to go (1/100)")
        terminal.interrupt()
        terminal.read_until("(stopped)")
        terminal.read_until("> ")
        terminal.type("1\n")
        terminal.read_until("Counted down from 1.")
        terminal.read_until("> ")
        terminal.type("\x04")
        assert terminal.finish() == 0
    assert "Traceback" not in terminal.output
