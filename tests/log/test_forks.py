"""What a job's thread begins with that goes on from its parent's conversation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import event, given, settings

from callboard.v1.message_pb2 import Message
from callboard_server.log.view import Others, Viewer, view_of
from tests.log.conversations import (
    ASSISTANT,
    SYSTEM,
    USER,
    Log,
    call,
    message,
    shown,
    thinking,
)
from tests.log.stories import ASSISTANTS, Story, stories
from tests.log.test_view_laws import rendered

_WORD = re.compile(r"\w+:\w*:\d+\.")
_NOTICE = re.compile("</?notice>")
BOTH: Sequence[Others] = ("final", "full")

enough = settings(max_examples=20)


@pytest.fixture
def log() -> Log:
    return Log()


def seen(log: Log, assistant: str, others: Others = "final") -> list[Message]:
    """What an assistant sees of a thread, in no run."""
    viewer = Viewer("", assistant_id=assistant, name=assistant)
    return view_of(log.conversation, viewer, log.head, others).messages


def in_short(messages: Sequence[Message]) -> list[str]:
    """Messages as they are heard, without marks of notices, and what is nobody else's."""
    bare = [_NOTICE.sub("", shown(each)) for each in messages]
    return [text for text in bare if text.removeprefix("assistant: ") and "correction" not in text]


def texts(log: Log, assistant: str, others: Others = "final") -> list[str]:
    return in_short(seen(log, assistant, others))


class TestWhatIsTaken:
    def test_the_conversation_with_its_tool_exchanges(self, log: Log) -> None:
        log.begin("1", "ann", "question")
        log.answer("1", thinking("hm"), "let me see", call("c1"), call("c2"))
        log.result("c2", "second", "1")
        log.result("c1", "first", "1")
        log.answer("1", "answer")
        fork = log.fork("ann")
        said = ["question", "assistant: let me see", "tool: second", "tool: first"]
        assert texts(fork, "ann") == [*said, "assistant: answer"]
        assert texts(fork, "bob") == ["question", '<agent name="ann">answer</agent>']
        assert "c1" in "".join(texts(fork, "bob", "full"))

    def test_not_what_waits_or_is_under_way(self, log: Log) -> None:
        log.begin("1", "ann", "question")
        log.answer("1", "I look, and hand on", call("c1"), call("launch"))
        log.result("c1", "found", "1")
        log.create("2", "ann")
        log.ask("later", "2")
        assert texts(log.fork("ann"), "ann") == ["question"]

    def test_not_what_is_of_runs_and_models(self, log: Log) -> None:
        log.begin("1", "ann", "question")
        said = message(ASSISTANT, thinking("hm"), "answer", author="ann")
        said.provider_state.blocks_json = b"signed"
        said.context_sequence = log.head
        log.add_message(said, "1", epoch=1)
        told = message(USER, "job 4711 is done", author="callboard")
        told.notice_id = "n1"
        log.add_message(told)
        [_, answer, notice] = [each.message_added.message for each in log.fork("ann").events]
        assert answer == message(ASSISTANT, "answer", author="ann")
        assert notice == message(USER, "job 4711 is done", author="callboard")

    def test_not_what_was_taken_back(self, log: Log) -> None:
        log.begin("1", "ann", "question")
        log.say("1", "answer")
        log.roll_back("1")
        assert log.fork("ann").events == []

    def test_not_what_agents_tell_their_models(self, log: Log) -> None:
        log.begin("1", "ann", "question")
        log.answer("1", "bad")
        log.add_message(message(SYSTEM, "in JSON, please", author="ann"), "1", epoch=1)
        log.answer("1", "good")
        log.finish("1")
        said = ["question", "assistant: bad", "assistant: good"]
        assert texts(log.fork("ann"), "ann") == said


class TestSummaries:
    @pytest.fixture
    def log(self, log: Log) -> Log:
        log.begin("1", "ann", "question")
        log.answer("1", "answer")
        through = log.finish("1")
        log.compact("of ann", through, "ann")
        log.begin("2", "bob", "more")
        log.answer("2", "bob's")
        log.finish("2")
        return log

    def test_what_a_summary_stands_for_stays_behind(self, log: Log) -> None:
        fork = log.fork("ann")
        summary = "<conversation_summary>of ann</conversation_summary>"
        bob = '<agent name="bob">bob\'s</agent>'
        assert texts(fork, "ann") == texts(log, "ann") == [summary, "more", bob]
        assert texts(fork, "cleo") == [summary, "more", bob]

    def test_another_ones_summary_is_not_taken(self, log: Log) -> None:
        said = ["question", '<agent name="ann">answer</agent>', "more", "assistant: bob's"]
        assert texts(log.fork("bob"), "bob") == said

    def test_of_nobody_it_is_the_last_one_of_all(self, log: Log) -> None:
        log.compact("of bob", log.head, "bob")
        log.ask("and now?")
        summary = "<conversation_summary>of bob</conversation_summary>"
        assert texts(log.fork(""), "cleo") == [summary, "and now?"]

    def test_what_was_not_over_is_taken_whatever_the_summary_has_seen_of_it(self, log: Log) -> None:
        log.begin("3", "bob", "and this?")
        log.answer("3", "bob's last")
        log.compact("of ann again", log.head, "ann")
        log.finish("3")
        assert '<agent name="bob">bob\'s last</agent>' in texts(log, "ann")
        assert '<agent name="bob">bob\'s last</agent>' in texts(log.fork("ann"), "ann")

    def test_functions_see_the_summary_that_stands_for_what_is_elsewhere(self, log: Log) -> None:
        fork = log.fork("ann")
        fork.begin("task", "cleo", "do it")
        summary = "<conversation_summary>of ann</conversation_summary>"
        assert fork.seen_by("task") == [summary, "more", "assistant: bob's", "do it"]
        # Where the messages are, they are.
        log.begin("3", "ann", "go on")
        assert "of ann" not in "".join(log.seen_by("3"))

    def test_a_fork_of_a_fork_begins_with_the_same_summary(self, log: Log) -> None:
        assert texts(log.fork("ann").fork("cleo"), "bob") == texts(log.fork("ann"), "bob")


# What holds for any conversation


@enough
@given(stories)
def test_an_assistant_sees_in_a_fork_what_it_sees_in_its_parent_and_the_task(story: Story) -> None:
    for assistant in ASSISTANTS:
        fork = story.log.fork(assistant)
        fork.begin("task", assistant, "the task")
        before = texts(story.log, assistant, "full")
        after = in_short(fork.view("task", "full").messages)
        assert after.pop() == "the task"
        if story.log.conversation.summary_for(assistant) is None:
            event("without a summary")
            assert after == before
        else:
            # Beyond that only what was not over when the summary was written.
            event("with a summary")
            rest = iter(after)
            assert all(text in rest for text in before)


@enough
@given(stories)
def test_all_that_shows_to_who_sees_last_answers_alone_shows_once_in_a_fork(story: Story) -> None:
    for assistant in ASSISTANTS:
        before = _WORD.findall("".join(texts(story.log, assistant)))
        after = Counter(_WORD.findall("".join(texts(story.log.fork(assistant), assistant))))
        assert set(before) <= after.keys()
        assert set(after.values()) <= {1}


@enough
@given(stories)
def test_no_fork_holds_what_is_private_to_the_parent(story: Story) -> None:
    for parent, child in product(["", *ASSISTANTS], ASSISTANTS):
        fork = story.log.fork(parent)
        assert not re.search(r"\b(thought|state|correction):", str(fork.events))
        sent = str(seen(fork, child))
        for other in ASSISTANTS.keys() - {child}:
            assert not re.search(rf"\b(tool|mid):{other}:", sent)


@pytest.mark.parametrize("provider", ["anthropic", "openai", "openai-chat", "compatible"])
@enough
@given(story=stories)
def test_a_provider_takes_every_fork(provider: str, story: Story) -> None:
    for parent, child in product(["", *ASSISTANTS], ASSISTANTS):
        fork = story.log.fork(parent)
        fork.begin("task", child, "the task")
        for others in BOTH:
            _, problems = rendered(provider, fork.view("task", others).messages)
            assert problems == []


@enough
@given(stories)
def test_a_fork_of_a_fork_is_the_same(story: Story) -> None:
    for assistant in ASSISTANTS:
        fork = story.log.fork(assistant)
        for viewer, others in product(ASSISTANTS, BOTH):
            assert seen(fork.fork(assistant), viewer, others) == seen(fork, viewer, others)
