"""`callboard chat` in a pipe: each line is a message, or answers what is asked."""

from __future__ import annotations

import json
import re
import signal
import uuid

import pytest

from callboard import Client
from standins import anthropic_wire as wire
from standins.anthropic import playing, refusing
from standins.replies import Call, Reply
from tests.cli.chat.conftest import Say, StandIn
from tests.cli.conftest import Run, environment, running
from tests.cli.terminal import PATIENCE

ABSENT = str(uuid.UUID(int=0))


def newest_thread(cli: Run) -> str:
    thread_id: str = cli("threads", "list", "--limit", "1", "--json").objects[0]["thread_id"]
    return thread_id


class TestMessages:
    def test_each_line_is_one(self, say: Say) -> None:
        result = say("one\n\n  two words \n", "echo")
        assert (result.code, result.err) == (0, "")
        assert result.out == "echo hears: one\necho hears: two words\n"

    def test_no_input_is_no_conversation(self, say: Say, cli: Run) -> None:
        say("x", "echo")
        before = newest_thread(cli)
        # Without a name the only chat agent is meant.
        assert (say("", "echo").code, say("\n \n").out) == (0, "")
        assert newest_thread(cli) == before

    def test_a_run_that_fails_is_told_and_fails_the_command(self, say: Say) -> None:
        result = say("nothing\n21\n", "number")
        assert (result.code, result.err, result.out) == (1, "error: Tell me a number.\n", "42\n")

    def test_unknown_agent_and_thread(self, say: Say) -> None:
        assert say("x", "nobody").code == 4
        assert say("x", "--thread", ABSENT).code == 4

    def test_a_reader_that_goes_away_is_no_error(self, address: str) -> None:
        with running("chat", "echo", "--json", env=environment(address)) as process:
            process.stdin.write("one\n")
            process.stdin.flush()
            process.stdout.readline()
            process.stdout.close()
            process.stdin.write("two\n")
            process.stdin.flush()
            assert process.stderr.read() == ""
            assert process.wait(PATIENCE) == 1

    def test_an_interrupt_stops_an_answer_and_another_one_all(self, address: str) -> None:
        with running("chat", "sleeper", env=environment(address)) as process:
            process.stdin.write("x\n")
            process.stdin.flush()
            assert process.stdout.readline() == "Good night.\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "  (stopped)\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130

    def test_a_thread_that_is_deleted_ends_it(self, address: str, client: Client) -> None:
        with running("chat", "sleeper", "--json", env=environment(address)) as process:
            process.stdin.write("x\ny\n")
            process.stdin.flush()
            thread_id = json.loads(process.stdout.readline())["thread_id"]
            client.threads.delete(thread_id)
            # Where the run was seen to end before, it is the next message that cannot be said.
            assert process.wait(PATIENCE) == 4


class TestThreads:
    def test_goes_on_with_one(self, say: Say, cli: Run) -> None:
        say("one", "echo")
        thread_id = newest_thread(cli)
        assert say("two", "--thread", thread_id).out == "echo hears: two\n"
        assert len(cli("threads", "messages", thread_id, "--json").objects) == 4

    def test_a_job_can_be_talked_to(self, say: Say, client: Client) -> None:
        parent = client.threads.create()
        job = client.jobs.launch("echo", "Hello.", parent_thread_id=parent.thread_id, notify="none")
        client.jobs.wait(job.job_id)
        result = say("you\n", "--thread", job.job_id, "--last", "2")
        assert result.out == "user:\nHello.\necho:\necho hears: Hello.\necho hears: you\n"

    def test_what_was_said_is_shown_with_authors(
        self, say: Say, cli: Run, standin: StandIn
    ) -> None:
        standin.will(Reply("I read.", [Call("read", '{"name": "a.txt"}')]), Reply("Read."))
        say("Read a.txt.", "speaker")
        thread_id = newest_thread(cli)
        said = "user:\nRead a.txt.\nspeaker:\nI read.\n"
        tools = '  ⚙ read("a.txt") · ok, 2 lines\n'
        result = say("again", "echo", "--thread", thread_id, "--last", "4")
        assert result.out == f"{said}{tools}Read.\necho:\necho hears: again\n"
        result = say("", "--thread", thread_id, "--last", "1")
        assert result.out == "  (5 earlier messages)\necho:\necho hears: again\n"
        assert say("", "--thread", thread_id).out == ""

    @pytest.mark.parametrize("arguments", [("--json", "--thread", ABSENT), ("echo",)], ids=" ".join)
    def test_what_was_said_has_its_own_command(self, say: Say, arguments: tuple[str, ...]) -> None:
        result = say("", *arguments, "--last", "1")
        assert result.code == 2
        assert "hint: callboard threads messages" in result.err


class TestAssistants:
    def test_speak_under_their_names(self, say: Say, client: Client) -> None:
        ada = client.assistants.create("echo", name="Ada Lovelace")
        text = f"one\n/as Ada Lovelace\ntwo\n/as echo\nthree\n/as {ada.assistant_id}\nfour\n"
        assert say(text, "echo").out.splitlines() == [
            "echo hears: one",
            "Ada Lovelace:",
            "Ada Lovelace hears: two",
            "echo:",
            "echo hears: three",
            "Ada Lovelace:",
            "Ada Lovelace hears: four",
        ]
        client.assistants.delete(ada.assistant_id)

    def test_are_found_by_name_where_one_has_it(self, say: Say, client: Client) -> None:
        name = f"Bob {uuid.uuid4()}"
        client.assistants.create("echo", name=name)
        assert say("x", name).out == f"{name} hears: x\n"
        client.assistants.create("echo", name=name)
        result = say("x", name)
        assert result.code == 2
        assert f"2 assistants are called {name}" in result.err

    def test_one_that_is_named_needs_no_heading(self, say: Say, cli: Run, client: Client) -> None:
        say("x", "echo")
        thread_id = newest_thread(cli)
        ada = client.assistants.create("echo", name="Ada")
        assert say("y", "Ada", "--thread", thread_id).out == "Ada hears: y\n"
        client.assistants.delete(ada.assistant_id)


class TestCommands:
    def test_are_told(self, say: Say) -> None:
        result = say("/help\nx\n", "echo")
        assert (result.code, result.out) == (0, "echo hears: x\n")
        assert "/as NAME" in result.err and "//" in result.err

    def test_unknown_ones_are_refused_and_said_with_two_slashes(self, say: Say) -> None:
        result = say("/tmp is full\n//tmp is full\n", "echo")
        assert (result.code, result.out) == (1, "echo hears: /tmp is full\n")
        assert result.err.startswith("error: /tmp is full is no command: /help lists them")

    def test_whom_nobody_knows(self, say: Say) -> None:
        result = say("/as nobody\n", "echo")
        assert result.code == 4
        assert "nobody" in result.err

    def test_nothing_to_answer(self, say: Say) -> None:
        assert "nothing waits for an answer" in say("/answer", "echo").err


class TestTools:
    CALLS = (
        Call("search", '{"pattern": "def main", "folder": "src"}'),
        Call("read", '{"name": "missing"}'),
        Call("read", '{"name": "' + 100 * "x" + '"}'),
    )

    def test_a_line_each(self, say: Say, standin: StandIn) -> None:
        standin.will(Reply("I look.", self.CALLS), Reply("Done."))
        lines = say("look", "speaker").out.splitlines()
        assert (lines[0], *lines[4:]) == (
            "I look.",
            "Done.",
            "  40 tokens in, 20 out, 2 calls · standin:m",
        )
        assert set(lines[1:4]) == {
            '  ⚙ search(pattern="def main", folder="src") · ok, 3 entries',
            '  ⚙ read("missing") · failed: There is no file missing.',
            f'  ⚙ read("{38 * "x"}…) · ok, 2 lines',
        }

    def test_verbose_shows_all(self, say: Say, standin: StandIn) -> None:
        standin.will(Reply("", self.CALLS[1:]), Reply("Done."))
        told = say("look", "speaker", "--verbose").out
        assert '    arguments: {"name": "missing"}\n    result: There is no file missing.\n' in told
        name = 100 * "x"
        assert f'    arguments: {{"name": "{name}"}}\n' in told
        assert f"    result:\n      The first line of {name}.\n      The last one.\n" in told

    def test_arguments_that_are_no_json_are_shown_as_they_are(
        self, say: Say, standin: StandIn
    ) -> None:
        standin.will(Reply("", [Call("read", "[1,\n 2]")]), Reply("Done."))
        assert "  ⚙ read([1, 2]) · failed: " in say("look", "speaker").out


class TestModels:
    def test_tokens_are_told(self, say: Say, standin: StandIn) -> None:
        standin.will(
            Reply(
                "Hello.",
                input_tokens=4210,
                cached_tokens=3900,
                output_tokens=120,
                reasoning_tokens=40,
            )
        )
        assert say("Hello?", "speaker").out.splitlines() == [
            "Hello.",
            "  4,210 tokens in (3,900 cached), 120 out (40 reasoning) · standin:m",
        ]

    def test_thoughts_are_for_those_who_ask(self, say: Say, standin: StandIn) -> None:
        thinking = "Let me\nthink. " + 300 * "x"
        standin.will(Reply("Yes.", thinking=thinking))
        assert "think" not in say("Yes?", "speaker").out
        standin.will(Reply("Yes.", thinking=thinking))
        thought, said, _ = say("Yes?", "speaker", "--verbose").out.splitlines()
        assert thought.startswith("  (thinks) Let me think. xxx") and thought.endswith("x…")
        assert len(thought) < 220
        assert said == "Yes."

    def test_calls_that_are_tried_again_are_told_and_what_they_wrote_is_not(
        self, say: Say, standin: StandIn
    ) -> None:
        begun = [
            wire.start(),
            wire.begin(0, {"type": "text", "text": ""}),
            wire.delta(0, wire.text_delta("Half an")),
        ]
        standin.will(
            refusing(529, "overloaded_error"),
            playing(*begun, wire.failed("overloaded_error")),
            Reply("An answer."),
        )
        first, second, *answer = say("?", "speaker").out.splitlines()
        for line in first, second:
            assert line.startswith("  ↻ trying again in ")
            assert "s: standin:m: The provider is overloaded" in line
        assert answer[0] == "An answer."

    def test_a_call_that_is_not_tried_again_fails(self, say: Say, standin: StandIn) -> None:
        standin.will(refusing(401, "authentication_error"))
        result = say("?", "speaker")
        assert (result.code, result.out) == (1, "")
        assert result.err.startswith("error: standin:m: The provider does not accept the key")


class TestActions:
    def test_questions(self, say: Say) -> None:
        result = say('paint\ngreen\nred\n42\n{"no": [1]}\n', "painter")
        assert result.code == 0
        assert result.err == "error: does not fit the schema: 'green' is not one of: red, blue\n"
        asked, more, named, else_, answer = result.out.splitlines()
        assert (asked, more) == ("? painter asks: Which", "  colour? (one of red, blue)")
        assert named.startswith("? painter asks: Its name? (text) (until 20")
        assert else_ == "? painter asks: Anything else?"
        assert answer == "['red', '42', {'no': [1]}]"

    def test_permissions(self, say: Say, standin: StandIn) -> None:
        doors = [Call("open_door", f'{{"number": {number}}}') for number in (1, 2, 3)]
        standin.will(Reply("", doors), Reply("Done."))
        result = say("open\nmaybe\ny\nn\nNO it is night\n", "speaker")
        assert (result.code, result.err) == (0, "error: say y, or n and why\n")
        asked = [line for line in result.out.splitlines() if line.startswith("?")]
        assert asked == [f'? speaker wants to use open_door: {{"number": {n}}}' for n in (1, 2, 3)]
        for line in (
            "⚙ open_door(1) · ok, 15 bytes",
            "⚙ open_door(2) · failed: The call was denied: no reason was given.",
            "⚙ open_door(3) · failed: The call was denied: it is night.",
        ):
            assert f"  {line}\n" in result.out

    def test_tools_of_the_client(self, say: Say, standin: StandIn) -> None:
        standin.will(Reply("", [Call("look")]), Reply("Then stay."))
        asked, called, *said = say("look\nIt rains.\n", "speaker").out.splitlines()
        assert asked == "? speaker needs the result of look: {}"
        assert called == "  ⚙ look() · ok, 9 bytes"
        assert said[0] == "Then stay."

    def test_what_no_line_answers_stays_open(self, say: Say, cli: Run, client: Client) -> None:
        result = say("choose\n", "chooser")
        thread_id = newest_thread(cli)
        [action] = client.actions.list(thread_id)
        assert result.code == 1
        assert result.out.splitlines() == [
            "? chooser asks: Which one?",
            f"  left open: callboard respond {action.action_id} --answer JSON",
        ]
        # A line of another conversation is no answer to it.
        assert say("hello\n", "echo", "--thread", thread_id).out == "echo hears: hello\n"
        client.runs.cancel(action.run_id)
        client.runs.wait(action.run_id)
        assert re.search(r"action_closed +run over\n", cli("events", thread_id).out)

    def test_of_jobs_that_are_waited_for(self, say: Say) -> None:
        asked, answer = say("go\nthat one\n", "boss").out.splitlines()
        assert asked.startswith("? chooser, job ")
        assert asked.endswith(", asks: Which one?")
        assert answer == "It says: Chosen: that one"

    def test_of_jobs_that_are_not_are_left_open(self, say: Say, client: Client) -> None:
        lines = say("start\nhello\n", "starter").out.splitlines()
        assert lines[:2] == ["It has started.", "You said: hello"]
        [action] = (each for each in client.actions.list() if each.action_id in lines[-1])
        client.jobs.cancel(action.thread_id)


class TestJson:
    def test_is_the_events(self, say: Say, standin: StandIn) -> None:
        standin.will(Reply("", [Call("search", '{"pattern": "x"}')]), Reply("Done."))
        events = say("search", "speaker", "--json").objects
        sequences = [int(event["sequence"]) for event in events]
        assert sequences == sorted(set(sequences))
        assert any("tool_started" in event for event in events)

    def test_answers_and_commands_work_as_elsewhere(self, say: Say, client: Client) -> None:
        result = say("/help\nchoose\nthat\n", "chooser", "--json")
        kinds = [kind for event in result.objects for kind in event if kind.startswith("action_")]
        assert kinds == ["action_raised", "action_answered"]
        assert "/as NAME" in result.err
