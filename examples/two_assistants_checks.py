"""What must be true of two assistants on one thread, read back from the log and the requests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from callboard import Assistant, text_of, to_dict
from callboard.v1.event_pb2 import Event
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.message_pb2 import Message
from callboard.v1.run_pb2 import Run
from stage import Check, console, make_checks
from standins.openai import broken_seals
from standins.requests import entries, instructions, spoken


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer."""

    question: str
    assistant: Assistant
    model: str
    """What the assistant is configured to answer by."""
    run: Run
    """The run at its end."""
    streamed: str
    """The answer as it was streamed."""
    request: Mapping[str, Any] | None = None
    """What the stand-in of its provider was asked; None where the provider itself was."""

    @property
    def answer(self) -> Message:
        return self.run.outcome.result

    @property
    def who(self) -> str:
        return self.assistant.assistant_id


@dataclass(frozen=True, slots=True)
class Play:
    """What happened on the thread."""

    turns: Sequence[Turn]
    log: Sequence[Event]
    kept: Sequence[Assistant]
    """The assistants as they are afterwards."""
    system: str
    """The instructions of the agent."""

    @property
    def recorded(self) -> Sequence[Turn]:
        """The turns whose requests are known."""
        return [turn for turn in self.turns if turn.request is not None]

    def before(self, turn: Turn) -> Sequence[Turn]:
        return self.turns[: self.turns.index(turn)]

    def event_of(self, message: Message) -> Event:
        """The event that brought a message into the log."""
        return next(e for e in self.log if e.message_added.message.message_id == message.message_id)


def check_play(play: Play) -> int:
    """Makes every check and prints what came of it; returns the exit code."""
    if not play.recorded:
        console.print("  The providers themselves were called: their requests are not checked.")
    return make_checks("two assistants", play, CHECKS + (OF_REQUESTS if play.recorded else ()))


def all_answered(play: Play) -> str:
    """Every question was answered."""
    states = [RunState.Name(turn.run.state) for turn in play.turns]
    answers = [text_of(turn.answer) for turn in play.turns]
    return "" if set(states) == {"RUN_STATE_SUCCEEDED"} and all(answers) else str(states)


def answers_are_signed(play: Play) -> str:
    """Each answer has the name and the model of its own assistant."""
    found = [(turn.answer.author, turn.answer.model) for turn in play.turns]
    wanted = [(turn.assistant.name, turn.model) for turn in play.turns]
    return "" if found == wanted else f"{found} instead of {wanted}"


def configurations_are_apart(play: Play) -> str:
    """Each run has its own assistant, which is as it was; the default one has no configuration."""
    for turn in play.turns:
        ran = (turn.run.assistant_id, turn.run.assistant_version, len(turn.run.config))
        if ran != (turn.who, turn.assistant.version, 0) or turn.assistant not in play.kept:
            return f"not so for {turn.question!r}"
    with_none = [each.name for each in play.kept if not to_dict(each.config)]
    default = [each.name for each in play.kept if each.default]
    return "" if with_none == default else f"{with_none} have none"


def exchanges_were_known(play: Play) -> str:
    """Each model call had all before it in its context."""
    for before, turn in combinations(play.turns, 2):
        if turn.answer.context_sequence < play.event_of(before.answer).sequence:
            return f"{turn.question!r} was answered without {before.question!r}"
    return ""


def streams_showed_the_log(play: Play) -> str:
    """What was streamed is what the log has."""
    logged = [text_of(play.event_of(t.answer).message_added.message) for t in play.turns]
    streamed = [turn.streamed for turn in play.turns]
    return "" if streamed == logged else f"{streamed} instead of {logged}"


def tokens_are_counted(play: Play) -> str:
    """The tokens of each answer are counted, and are those of its run."""
    used = [turn.answer.usage for turn in play.turns]
    if not all(usage.input_tokens and usage.output_tokens for usage in used):
        return "some are not"
    return "" if used == [turn.run.usage for turn in play.turns] else "the runs have others"


def log_has_no_holes(play: Play) -> str:
    """The log goes from 1 up by 1."""
    found = [event.sequence for event in play.log]
    return "" if found == list(range(1, len(found) + 1)) else str(found)


def models_are_their_own(play: Play) -> str:
    """Each request asks for the model of its own assistant, with the agent's instructions."""
    for turn, body in _requests(play):
        if body["model"] != turn.model.partition(":")[2] or instructions(body) != play.system:
            return f"{turn.question!r} asked for {body['model']}"
    return ""


def others_are_named(play: Play) -> str:
    """What the other said is told by its name, and never as words of the one who is asked."""
    for turn, body in _requests(play):
        for before in play.before(turn):
            if before.who == turn.who:
                continue
            told = f'<agent name="{before.assistant.name}">{text_of(before.answer)}</agent>'
            if told not in "".join(text for role, text in spoken(body) if role == "user"):
                return f"{turn.question!r} came without what {before.assistant.name} had said"
            if ("assistant", text_of(before.answer)) in spoken(body):
                return f"{turn.question!r} has {before.assistant.name}'s words as its own"
    return ""


def own_words_are_own(play: Play) -> str:
    """What an assistant said before is its own to it, thinking included."""
    for turn, body in _requests(play):
        for before in play.before(turn):
            if before.who == turn.who:
                if ("assistant", text_of(before.answer)) not in spoken(body):
                    return f"{turn.question!r} came without what it had said itself"
                if not all(_holds(body, each) for each in _thoughts(before)):
                    return f"{turn.question!r} came without what it had thought"
        if "input" in body and broken_seals(body):
            return f"{turn.question!r} came with thinking that is bound to something else"
    return ""


def thinking_is_private(play: Play) -> str:
    """What the other thought is in no request."""
    for turn, body in _requests(play):
        others = [each for each in play.turns if each.who != turn.who]
        if any(_holds(body, each) for other in others for each in _thoughts(other)):
            return f"{turn.question!r} came with it"
    return ""


def requests_extend(play: Play) -> str:
    """Each request of an assistant begins with the one before."""
    for (before, old), (turn, new) in combinations(_requests(play), 2):
        known = list(entries(old))
        if before.who == turn.who and list(entries(new))[: len(known)] != known:
            return f"that for {turn.question!r} does not"
    return ""


def _requests(play: Play) -> Iterator[tuple[Turn, Mapping[str, Any]]]:
    for turn in play.turns:
        if turn.request is not None:
            yield turn, turn.request


def _thoughts(turn: Turn) -> Sequence[str]:
    return [block.thinking.text for block in turn.answer.content if block.thinking.text]


def _holds(body: Mapping[str, Any], text: str) -> bool:
    """Whether a text stands anywhere in a request."""
    return json.dumps(text)[1:-1] in json.dumps(body)


CHECKS: tuple[Check[Play], ...] = (
    all_answered,
    answers_are_signed,
    configurations_are_apart,
    exchanges_were_known,
    streams_showed_the_log,
    tokens_are_counted,
    log_has_no_holes,
)
OF_REQUESTS: tuple[Check[Play], ...] = (
    models_are_their_own,
    others_are_named,
    own_words_are_own,
    thinking_is_private,
    requests_extend,
)
"""Checks of what stand-ins were asked."""
