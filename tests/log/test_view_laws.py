"""What holds for the views of any thread."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from typing import Any

import pytest
from hypothesis import event, given, settings

from callboard.v1.event_pb2 import Event
from callboard.v1.message_pb2 import Message
from callboard_server.log.conversation import Conversation
from callboard_server.log.view import Viewer, messages_of, view_of
from callboard_server.models import anthropic_rendering, openai_chat, openai_responses
from callboard_server.models.base import ModelRequest
from standins import anthropic_rules, openai_rules
from tests.log.conversations import ASSISTANT, SYSTEM, TOOL, USER
from tests.log.stories import ASSISTANTS, Story, stories

_WORD = re.compile(r"\w+:\w*:\d+\.")
_TAG = re.compile(r"<(/?)(?:agent|user|tool_call|tool_result|conversation_summary|notice)\b[^>]*>")

enough = settings(max_examples=30)


@enough
@given(stories)
def test_each_request_of_a_lineage_extends_the_one_before_and_its_answer(story: Story) -> None:
    for request in story.requests:
        if request.extends is None:
            continue
        event("extends")
        before = list(request.extends.view.messages)
        if request.extends.answer is not None:
            event("extends an answer")
            before.append(request.extends.answer)
        assert request.view.messages[: len(before)] == before


@enough
@given(stories)
def test_roles_and_tool_calls_are_as_models_want_them(story: Story) -> None:
    for request in story.requests:
        own = request.run.assistant
        awaited: list[str] = []
        for each in request.view.messages:
            calls = [b.tool_call.tool_call_id for b in each.content if b.HasField("tool_call")]
            results = [
                b.tool_result.tool_call_id for b in each.content if b.HasField("tool_result")
            ]
            assert bool(results) == (each.role == TOOL)
            assert set(results) <= set(awaited)
            awaited = [call_id for call_id in awaited if call_id not in results]
            # Nothing stands between calls and their results.
            assert each.role == TOOL or not awaited
            awaited += calls
            if each.role == ASSISTANT:
                assert each.author == own
            else:
                assert not calls and not each.HasField("provider_state")
        assert not awaited


@pytest.mark.parametrize("provider", ["anthropic", "openai", "openai-chat", "compatible"])
@enough
@given(story=stories)
def test_a_provider_takes_every_request_and_finds_in_it_what_it_has_answered(
    provider: str, story: Story
) -> None:
    for request in story.requests:
        body, problems = rendered(provider, request.view.messages)
        assert problems == []
        if request.extends is not None and request.extends.answer is not None:
            before, _ = rendered(provider, request.extends.view.messages)
            assert body[: len(before)] == before


def rendered(provider: str, messages: Sequence[Message]) -> tuple[list[Any], list[str]]:
    """Renders a request; returns what grows in it, and what the provider would refuse."""
    request = ModelRequest("Be kind.", messages, tools=())
    if provider == "anthropic":
        body = anthropic_rendering.render(request, "model", "account").parameters
        said = [(each["role"], block) for each in body["messages"] for block in each["content"]]
        return said, anthropic_rules.problems(body)
    if provider == "openai":
        rendered = openai_responses.render_request(request, "model", "account", compatible=False)
        parameters = {**rendered.parameters, "stream": True}
        return parameters["input"], openai_rules.responses_problems(parameters)
    compatible = provider == "compatible"
    parameters = openai_chat.render_request(request, "model", compatible=compatible)
    return parameters["messages"], openai_rules.chat_problems({**parameters, "stream": True})


@enough
@given(stories)
def test_no_request_holds_what_is_private_to_another_assistant(story: Story) -> None:
    for request in story.requests:
        sent = "".join(str(each) for each in request.view.messages)
        private = {"thought", "state", "correction"}
        if ASSISTANTS[request.run.assistant] == "final":
            private |= {"tool", "mid"}
        for other in ASSISTANTS.keys() - {request.run.assistant}:
            assert not re.search(rf"\b({'|'.join(private)}):{other}:", sent)


@enough
@given(stories)
def test_everything_that_is_said_in_a_request_is_in_the_log(story: Story) -> None:
    in_log = {text for e in story.log.events for text in _texts_of(_said_by(e))}
    for request in story.requests:
        for each in request.view.messages:
            texts = _texts_of(each)
            if in_log.issuperset(texts):
                continue
            parts = _TAG.split("".join(texts))
            said = {part.strip("\n").replace("&lt;", "<") for part in parts[::2]}
            assert said - {""} <= in_log
            # Every tag that opens is closed.
            assert parts[1::2].count("/") * 2 == len(parts[1::2])


@enough
@given(stories)
def test_nothing_that_users_and_the_assistant_said_is_lost_or_comes_twice(story: Story) -> None:
    for request in story.requests:
        words = [word for each in request.view.messages for word in _WORD.findall(str(each))]
        counts = Counter(word for word in words if not word.startswith("tool"))
        assert set(counts.values()) <= {1}
        log = story.log.events[: request.view.context_sequence]
        begun = {e.run_id for e in log if e.HasField("run_started") or e.HasField("run_finished")}
        waiting = [e for e in log if e.run_id not in {"", *begun}]
        assert not counts.keys() & _words(_said_by(e) for e in waiting)
        if not request.view.summary_sequence:
            assert _shown_in(log, begun, request.run.assistant) <= counts.keys()


@enough
@given(stories)
def test_a_view_follows_from_the_log_and_who_looks_alone(story: Story) -> None:
    for request in story.requests:
        run, conversation = request.run, Conversation()
        for each in story.log.events[: request.view.context_sequence]:
            conversation.apply(each)
        viewer, head = Viewer(run.name, run.assistant, run.assistant), conversation.through
        again = view_of(conversation, viewer, head, ASSISTANTS[run.assistant])
        assert again.messages == request.view.messages
        assert list(again.cuts()) == list(request.view.cuts())


@enough
@given(stories)
def test_a_summary_takes_the_place_of_what_stands_before_its_cut_and_of_nothing_else(
    story: Story,
) -> None:
    for run in story.runs:
        if not run.is_live:
            continue
        view = story.view(run)
        others = [each for each in story.runs if each.is_live and each is not run]
        needed = {each.name for each in others if each.assistant == run.assistant}
        for cut in view.cuts():
            event("cut")
            assert not needed & {each.run_id for each in view.messages[: cut.messages]}
            told = Conversation()
            for each in story.log.events:
                told.apply(each)
            compacted = Event(sequence=story.log.head + 1, run_id=run.name, claim_epoch=1)
            compacted.context_compacted.through_sequence = cut.through
            compacted.context_compacted.assistant_id = run.assistant
            told.apply(compacted)
            viewer = Viewer(run.name, run.assistant, run.assistant)
            rest = view_of(told, viewer, compacted.sequence, ASSISTANTS[run.assistant]).messages
            kept = view.messages[cut.messages :]
            notices = [each for each in view.messages[: cut.messages] if each.notice_id]
            assert [each for each in rest if each not in notices] == kept
            assert all(each in notices for each in rest[: len(rest) - len(kept)])


@enough
@given(stories)
def test_functions_get_all_messages_that_stand_and_nobody_elses_thoughts(story: Story) -> None:
    for run in story.runs:
        got = messages_of(story.log.conversation, Viewer(run.name, run.assistant, run.assistant))
        said = str(got)
        for other in ASSISTANTS.keys() - {run.assistant}:
            assert f"thought:{other}" not in said and f"state:{other}" not in said
        answers = [each for each in got if each.role == ASSISTANT and each.author == run.assistant]
        assert all(each in [_said_by(e) for e in story.log.events] for each in answers)


def _said_by(event: Event) -> Message:
    if event.HasField("context_compacted"):
        return event.context_compacted.summary
    return event.message_added.message


def _texts_of(*messages: Message) -> list[str]:
    texts = []
    for block in (block for each in messages for block in each.content):
        match block.WhichOneof("block"):
            case "text":
                texts.append(block.text.text)
            case "thinking":
                texts.append(block.thinking.text)
            case "tool_call":
                texts.append(block.tool_call.arguments_json)
            case "tool_result":
                texts.append(block.tool_result.text)
    return texts


def _shown_in(log: Sequence[Event], begun: Set[str], assistant: str) -> set[str]:
    """The words that users said to runs that have begun, or to nobody, and the assistant's own."""
    taken_back = {run for e in log for run in e.runs_rolled_back.run_ids}
    messages = [
        (e.message_added.message, e.claim_epoch > 0)
        for e in log
        if e.HasField("message_added") and e.run_id in {"", *begun} - taken_back
    ]
    said = [m for m, is_written in messages if m.role in (USER, SYSTEM) and not is_written]
    own = [m for m, _ in messages if m.role == ASSISTANT and m.author == assistant]
    return _words(said) | {word for word in _words(own) if word.startswith(("answer", "import"))}


def _words(messages: Iterable[Message]) -> set[str]:
    return {word for each in messages for word in _WORD.findall(str(each))}
