"""`callboard chat` on a terminal: what a person types, sees and is asked."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from callboard import Client, text_of
from standins import anthropic_wire as wire
from standins.anthropic import playing
from standins.http import Handler, Step
from standins.replies import Call, Reply
from tests.cli.chat.conftest import StandIn
from tests.cli.conftest import environment, read_ready, running
from tests.cli.terminal import Terminal
from tests.support.proxy import Proxy

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
PROMPT = "\r\x1b[K> "
Talk = Callable[..., Terminal]


@pytest.fixture
def talk(address: str) -> Iterator[Talk]:
    """Begins conversations."""
    with ExitStack() as terminals:

        def begin(*arguments: str, server: str = address, prompt: str = PROMPT) -> Terminal:
            terminal = Terminal("chat", *arguments, env=environment(server), columns=100)
            terminals.enter_context(terminal)
            terminal.read_until(prompt)
            return terminal

        yield begin


def seen(text: str) -> str:
    """What a screen shows of a text, colours aside."""
    return CODES.sub("", text)


def newest_thread(client: Client) -> str:
    return next(client.threads.list()).thread_id


def end(terminal: Terminal) -> None:
    terminal.read_until(PROMPT)
    terminal.type("\x04")
    assert terminal.finish() == 0
    assert "Traceback" not in terminal.output


def halting(text: str, gate: asyncio.Event, rest: str) -> Handler:
    """An answer that goes on when a gate opens."""
    return playing(
        wire.start(),
        wire.begin(0, {"type": "text", "text": ""}),
        wire.delta(0, wire.text_delta(text)),
        gate,
        wire.delta(0, wire.text_delta(rest)),
        wire.wire("content_block_stop", index=0),
        *wire.end("end_turn"),
    )


class TestAnswers:
    def test_are_shown_and_can_be_stopped(self, talk: Talk) -> None:
        terminal = talk("sleeper")
        assert "sleeper · /help lists commands, Ctrl-D ends" in terminal.output
        terminal.type("sleep\n")
        terminal.read_until("asleep (1/2)")
        terminal.interrupt()
        terminal.read_until("(stopped)")
        terminal.read_until(PROMPT)
        terminal.type("/as echo\n")
        terminal.read_until("echo answers from now on")
        terminal.type("hello\n")
        terminal.read_until("echo hears: hello")
        end(terminal)

    def test_are_shown_as_they_are_written(self, talk: Talk, standin: StandIn) -> None:
        gate = asyncio.Event()
        standin.will(halting("Once upon", gate, " a time."))
        terminal = talk("speaker")
        terminal.type("tell\n")
        terminal.read_until("Once upon")
        standin.call(gate.set)
        terminal.read_until(" a time.")
        end(terminal)
        assert "20 tokens in, 10 out · standin:m\n" in seen(terminal.output)
        assert seen(terminal.output).count("Once upon") == 1

    def test_what_was_written_in_vain_is_marked(self, talk: Talk, standin: StandIn) -> None:
        gate = asyncio.Event()
        begun = [
            wire.start(),
            wire.begin(0, {"type": "text", "text": ""}),
            wire.delta(0, wire.text_delta("Half an")),
        ]
        standin.will(playing(*begun, gate, wire.failed("overloaded_error")), Reply("An answer."))
        terminal = talk("speaker")
        terminal.type("tell\n")
        terminal.read_until("Half an")
        standin.call(gate.set)
        told = seen(terminal.read_until("An answer."))
        first, second, _ = told.lstrip("\n").splitlines()
        assert first == "  ✗ what stands above of this answer is void"
        assert second.startswith("  ↻ trying again in ")
        assert "standin:m: The provider is overloaded" in second
        end(terminal)

    def test_what_comes_in_between_tears_them(
        self, talk: Talk, client: Client, standin: StandIn
    ) -> None:
        gate = asyncio.Event()
        standin.will(halting("Once upon", gate, " a time."))
        terminal = talk("speaker")
        terminal.type("tell\n")
        terminal.read_until("Once upon")
        thread_id = newest_thread(client)
        client.runs.create("echo", "Hm.", thread_id=thread_id, multitask_strategy="concurrent")
        terminal.read_until("echo hears: Hm.")
        client.jobs.launch("chooser", "Choose.", parent_thread_id=thread_id, notify="none")
        terminal.read_until("answer> ")
        standin.call(gate.set)
        terminal.read_until(" a time.")
        terminal.read_until("answer> ")
        terminal.type("that\n")
        end(terminal)
        told = seen(terminal.output)
        assert "Once upon\necho:\necho hears: Hm.\n\n? chooser, job " in told
        assert "answer> \rspeaker:\nanswer> \r a time.\nanswer> that\n" in told

    def test_thoughts_stand_before_them(self, talk: Talk, standin: StandIn) -> None:
        standin.will(Reply("Yes.", thinking="Is it so?"))
        terminal = talk("speaker", "--verbose")
        terminal.type("so?\n")
        told = terminal.read_until("Yes.")
        assert "\x1b[2;3m  (thinks) Is it so?" in told
        end(terminal)

    def test_what_was_said_is_shown_first(self, talk: Talk, client: Client) -> None:
        ada = client.assistants.create("echo", name="Ada")
        run = client.runs.create(ada.assistant_id, "Hello?", wait=10)
        terminal = talk("--thread", run.thread_id)
        told = seen(terminal.output)
        assert "Ada · /help" in told
        assert "user:\nHello?\nAda:\nAda hears: Hello?\n" in told
        terminal.type("Bye.\n")
        # No other assistant has spoken.
        assert seen(terminal.read_until("Ada hears: Bye.")) == "Bye.\nAda hears: Bye."
        end(terminal)
        client.assistants.delete(ada.assistant_id)


class TestActions:
    def test_permissions(self, talk: Talk, standin: StandIn) -> None:
        calls = [Call("open_door", f'{{"number": {number}}}') for number in (1, 2)]
        standin.will(Reply("I try.", calls), Reply("Done."))
        terminal = talk("speaker")
        terminal.type("open\n")
        asked = seen(terminal.read_until("y, or n and why> "))
        assert '? speaker wants to use open_door: {"number": 1}\n' in asked
        terminal.type("\n")
        terminal.read_until("y, or n and why> ")
        terminal.type("perhaps\n")
        terminal.read_until("error: say y, or n and why")
        terminal.read_until("y, or n and why> ")
        terminal.type("y\n")
        assert '{"number": 2}' in terminal.read_until("y, or n and why> ")
        terminal.type("n not at night\n")
        told = seen(terminal.read_until("Done."))
        assert "⚙ open_door(1) · ok, 15 bytes\n" in told
        assert "⚙ open_door(2) · failed: The call was denied: not at night.\n" in told
        end(terminal)

    def test_questions_are_asked_until_the_answer_fits(self, talk: Talk) -> None:
        terminal = talk("painter")
        terminal.type("paint\n")
        assert "? painter asks: Which\n  colour? (one of red, blue)\n" in seen(
            terminal.read_until("answer> ")
        )
        terminal.type("green\n")
        terminal.read_until("error: does not fit the schema: 'green' is not one of")
        for answer in "red", "Rose", "no":
            terminal.read_until("answer> ")
            terminal.type(f"{answer}\n")
        terminal.read_until("['red', 'Rose', 'no']")
        end(terminal)

    def test_can_be_left_open_and_answered_later(self, talk: Talk, client: Client) -> None:
        terminal = talk("chooser")
        terminal.type("choose\n")
        terminal.read_until("answer> ")
        terminal.interrupt()
        # A signal between the prompt and the wait for keys is not seen before the next line.
        terminal.type("\n")
        left = terminal.read_until("--answer JSON")
        terminal.read_until(PROMPT)
        [action] = (each for each in client.actions.list() if each.action_id in left)
        terminal.type("/as echo\n")
        terminal.type("meanwhile\n")
        terminal.read_until("echo hears: meanwhile")
        terminal.read_until(PROMPT)
        terminal.type("/answer\n")
        terminal.read_until("answer> ")
        terminal.type("that\n")
        assert "chooser:" in terminal.read_until("Chosen: that")
        end(terminal)
        assert not list(client.actions.list(action.thread_id))

    def test_somebody_else_may_be_faster(self, talk: Talk, client: Client) -> None:
        terminal = talk("chooser")
        terminal.type("choose\n")
        terminal.read_until("answer> ")
        [action] = client.actions.list(newest_thread(client))
        client.actions.answer(action, "this")
        terminal.read_until("Chosen: this")
        terminal.type("that\n")
        terminal.read_until("error: ")
        end(terminal)

    def test_those_of_jobs_come_while_a_message_is_typed(self, talk: Talk, client: Client) -> None:
        terminal = talk("echo")
        terminal.type("one\n")
        terminal.read_until(PROMPT)
        thread_id = newest_thread(client)
        terminal.type("tw")
        terminal.read_until("tw")
        job = client.jobs.launch("chooser", "Choose.", parent_thread_id=thread_id, notify="none")
        asked = seen(terminal.read_until("> tw"))
        assert f"? chooser, job {job.job_id[:8]}, asks: Which one?\n" in asked
        assert "  (Enter alone answers it)\n" in asked
        terminal.type("\x15\n")
        terminal.read_until("answer> ")
        terminal.type("that\n")
        terminal.read_until(PROMPT)
        [job] = client.jobs.wait(job.job_id)
        assert text_of(job.outcome.result) == "Chosen: that"
        terminal.type("two\n")
        terminal.read_until("echo hears: two")
        end(terminal)

    def test_the_end_of_input_leaves_all_open(self, talk: Talk, client: Client) -> None:
        terminal = talk("painter")
        terminal.type("paint\n")
        terminal.read_until("answer> ")
        terminal.type("\x04")
        assert terminal.finish() == 0
        told = seen(terminal.output)
        [action] = (each for each in client.actions.list() if each.action_id in told)
        assert f"left open: callboard respond {action.action_id} --answer JSON" in told
        client.runs.cancel(action.run_id)

    def test_those_that_were_open_are_asked_first(self, talk: Talk, client: Client) -> None:
        run = client.runs.create("chooser", "Choose.", wait=10)
        terminal = talk("--thread", run.thread_id, prompt="answer> ")
        terminal.type("that\n")
        terminal.read_until("Chosen: that")
        end(terminal)


class TestWhatATerminalMustNotBeTold:
    def test_by_agents(self, talk: Talk) -> None:
        terminal = talk("writer", prompt=PROMPT)
        terminal.type("write\n")
        terminal.read_until("answer> ")
        terminal.type("yes\n")
        end(terminal)
        assert "? writer asks: ]0;takenReally?\n  > no\n" in seen(terminal.output)
        assert "[2J[31mred backwards1m\n" in terminal.output
        assert not re.search(r"\x1b(?!\[[0-9;?]*[mKhl])|[\x07\x9b\u202e]", terminal.output)

    def test_by_models(self, talk: Talk, standin: StandIn) -> None:
        arguments = json.dumps({"name": "\x1b[2J\x9b2J\u202etxt"}, ensure_ascii=False)
        standin.will(
            Reply("\x1b[2J One", [Call("read", arguments)], thinking="\x1b[2J"),
            Reply("\x1b[2J Two"),
        )
        terminal = talk("speaker", "--verbose")
        terminal.type("x\n")
        told = terminal.read_until("Two")
        assert not re.search(r"\x1b\[2J|\x9b|\u202e", told)
        end(terminal)


class TestOutages:
    @pytest.fixture
    def port(self) -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            return port

    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
    def test_an_answer_goes_on_when_its_server_is_back(
        self,
        talk: Talk,
        folder: Path,
        tmp_path: Path,
        port: int,
        how: signal.Signals,
    ) -> None:
        serve = ("--json", "serve", "--port", str(port), "--db", str(tmp_path / "jobs.db"))
        with running(*serve, cwd=folder) as process:
            read_ready(process)
            terminal = talk("novelist", server=f"127.0.0.1:{port}")
            terminal.type("tell\n")
            terminal.read_until("Half an")
            process.send_signal(how)
            process.wait()
        with running(*serve, cwd=folder):
            told = seen(terminal.read_until("An answer."))
            assert "✗ what stands above of this answer is void\n" in told
            assert "  ↻ the server " in told
            assert "✗ what it said before is void: it begins again\nListen.\n" in told
            end(terminal)

    def test_a_lost_connection_is_taken_up_again(
        self, talk: Talk, standin: StandIn, address: str
    ) -> None:
        gates = [asyncio.Event() for _ in range(3)]
        words = ["One,", " two,", " three,", " four."]
        steps: list[Step] = [wire.start(), wire.begin(0, {"type": "text", "text": ""})]
        for word, gate in zip(words, [*gates, None], strict=True):
            steps += [wire.delta(0, wire.text_delta(word)), *([gate] if gate else [])]
        standin.will(
            playing(*steps, wire.wire("content_block_stop", index=0), *wire.end("end_turn"))
        )
        proxy = Proxy(int(address.rpartition(":")[2]))
        port = standin.run(proxy.open())
        terminal = talk("speaker", server=f"127.0.0.1:{port}")
        terminal.type("count\n")
        for word, gate in zip(words, gates, strict=False):
            terminal.read_until(word)
            standin.call(proxy.cut)
            standin.call(gate.set)
        terminal.read_until(" four.")
        end(terminal)
        assert seen(terminal.output).count("One, two, three, four.") == 1
        standin.run(proxy.close())
