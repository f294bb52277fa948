"""The demo of two assistants: alone, with providers, and with a server that mixes things up."""

from __future__ import annotations

import asyncio
import copy
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, get_args

import pytest
from anthropic.types import ModelParam
from openai.types import ChatModel

import two_assistants
from callboard import Run, RunState
from cast import PROVIDERS
from standins import anthropic, openai
from standins.http import Handler, HttpServer, serving
from standins.replies import Reply
from tests.docs.markdown import ROOT
from tests.examples.demos import demonstrate, keyless
from tests.support.programs import python
from two_assistants import MODELS
from two_assistants_checks import CHECKS, OF_REQUESTS, Play

Change = Callable[[Play], Play]
ALL = [*CHECKS, *OF_REQUESTS]
DEMO = "two_assistants.py"


def asked(server: HttpServer) -> list[tuple[str, str]]:
    """The keys and models that a provider was called with."""
    return [(each.headers["authorization"], each.body["model"]) for each in server.requests]


async def test_without_keys_stand_ins_answer_and_it_says_so() -> None:
    code, printed = await demonstrate(DEMO)
    for provider in PROVIDERS.values():
        assert f"{provider.key} is not set: in the place of {provider.vendor} a stand" in printed
    assert printed.count("and am no language model") >= 3
    assert printed.endswith(f"two assistants: {len(ALL)} checks passed\n")
    assert code == 0


async def test_a_provider_whose_key_is_set_is_called() -> None:
    async with serving(openai.scripted(lambda body: Reply("Somebody."))) as server:
        code, printed = await demonstrate(
            DEMO,
            OPENAI_API_KEY="sk-1",
            OPENAI_BASE_URL=f"{server.url}/v1",
            CALLBOARD_MODEL_A="openai:x",
        )
        assert asked(server) == [("Bearer sk-1", "x")] * 2
    assert "OPENAI_API_KEY is set: openai:x is called at OpenAI." in printed
    assert "ANTHROPIC_API_KEY is not set" in printed
    assert printed.endswith(f"two assistants: {len(ALL)} checks passed\n")
    assert code == 0


async def test_with_keys_no_requests_are_known() -> None:
    async with serving(anthropic.scripted(lambda body: Reply("Somebody."))) as server:
        code, printed = await demonstrate(
            DEMO,
            ANTHROPIC_API_KEY="sk-1",
            ANTHROPIC_BASE_URL=server.url,
            CALLBOARD_MODEL="anthropic:x",
        )
        assert asked(server) == [("Bearer sk-1", "x")] * 3
    assert "no language model" not in printed
    assert "their requests are not checked" in printed
    assert printed.endswith(f"two assistants: {len(CHECKS)} checks passed\n")
    assert code == 0


async def test_a_key_that_is_refused_ends_it() -> None:
    refusing: Handler = anthropic.refusing(401, "authentication_error", "SECRET")
    async with serving(refusing) as server:
        code, printed = await demonstrate(
            DEMO, ANTHROPIC_API_KEY="sk-1", ANTHROPIC_BASE_URL=server.url
        )
    assert "agent did not answer: anthropic:" in printed
    assert "does not accept the key" in printed
    assert "SECRET" not in printed
    assert "Traceback" not in printed
    assert code == 1


async def test_a_model_of_nobody_is_refused() -> None:
    code, printed = await demonstrate(DEMO, CALLBOARD_MODEL="x")
    assert printed == "'x': name a model as anthropic:MODEL or openai:MODEL\n"
    assert code == 1


def test_the_sdks_know_its_models() -> None:
    known = {"anthropic": get_args(get_args(ModelParam)[0]), "openai": get_args(ChatModel)}
    for model in MODELS.values():
        provider, _, name = model.partition(":")
        assert name in known[provider]


def test_the_page_shows_its_last_line() -> None:
    page = (ROOT / "docs" / "providers.md").read_text("utf-8")
    assert f"\ntwo assistants: {len(ALL)} checks passed\n" in page


def test_make_runs_it() -> None:
    _, _, rest = (
        (ROOT / "Makefile").read_text("utf-8").partition("\ndemo-two-assistants: .venv/.server")
    )
    assert rest.splitlines()[1] == "\t@$(BIN)/python examples/two_assistants.py"


# The checks themselves


@pytest.fixture(scope="module")
def play() -> Iterator[Play]:
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(keyless()):
            patch.delenv(name)
        patch.setattr(sys, "executable", python())
        yield asyncio.run(two_assistants.run())


def with_run(number: int, change: Callable[[Run], object]) -> Change:
    def doctor(play: Play) -> Play:
        turns = [*play.turns]
        run = Run()
        run.CopyFrom(turns[number].run)
        change(run)
        turns[number] = replace(turns[number], run=run)
        return replace(play, turns=turns)

    return doctor


def with_request(number: int, change: Callable[[Any], object]) -> Change:
    def doctor(play: Play) -> Play:
        turns = [*play.turns]
        body: Any = copy.deepcopy(turns[number].request)
        change(body)
        turns[number] = replace(turns[number], request=body)
        return replace(play, turns=turns)

    return doctor


def with_more_streamed(play: Play) -> Play:
    return replace(play, turns=[replace(each, streamed=f"{each.streamed}!") for each in play.turns])


def with_configuration(play: Play) -> Play:
    ada, default = play.kept
    changed = type(default)()
    changed.CopyFrom(default)
    changed.config.CopyFrom(ada.config)
    turns = [replace(t, assistant=changed) if t.assistant == default else t for t in play.turns]
    return replace(play, kept=[ada, changed], turns=turns)


def take_words(body: Any) -> None:
    """Makes an answer of the assistant of what the other one said."""
    [message] = body["messages"]
    told = message["content"].pop(1)["text"]
    words = told.partition(">")[2].rpartition("<")[0]
    message["content"].append({"type": "text", "text": told})
    body["messages"].append({"role": "assistant", "content": [{"type": "text", "text": words}]})


def forget_others(body: Any) -> None:
    del body["messages"][0]["content"][1]


def tell_thoughts(play: Play) -> Play:
    """Lets the one know what the other thought."""
    [thought] = [b.thinking.text for b in play.turns[0].answer.content if b.HasField("thinking")]
    tell = with_request(1, lambda body: body["messages"][0]["content"][0].update(text=thought))
    return tell(play)


DOCTORED: list[tuple[str, Change]] = [
    ("all_answered", with_run(0, lambda run: setattr(run, "state", RunState.RUN_STATE_FAILED))),
    ("answers_are_signed", with_run(1, lambda run: setattr(run.outcome.result, "author", "Ada"))),
    ("answers_are_signed", with_run(1, lambda run: setattr(run.outcome.result, "model", "x"))),
    ("configurations_are_apart", with_configuration),
    ("configurations_are_apart", with_run(0, lambda run: run.config.update({"model": "x"}))),
    ("configurations_are_apart", with_run(2, lambda run: run.ClearField("assistant_id"))),
    (
        "exchanges_were_known",
        with_run(1, lambda run: setattr(run.outcome.result, "context_sequence", 3)),
    ),
    ("streams_showed_the_log", with_more_streamed),
    ("tokens_are_counted", with_run(0, lambda run: run.ClearField("usage"))),
    ("log_has_no_holes", lambda play: replace(play, log=[play.log[0], *play.log[2:]])),
    ("models_are_their_own", with_request(1, lambda body: body.update(model="gpt"))),
    ("models_are_their_own", with_request(0, lambda body: body.pop("instructions"))),
    ("others_are_named", with_request(1, take_words)),
    ("others_are_named", with_request(1, forget_others)),
    ("own_words_are_own", with_request(2, lambda body: body["input"].pop(2))),
    ("own_words_are_own", with_request(2, lambda body: body["input"].pop(1))),
    ("own_words_are_own", with_request(2, lambda body: body["input"][0].update(role="system"))),
    ("thinking_is_private", tell_thoughts),
    ("requests_extend", with_request(0, lambda body: body["input"].append(body["input"][0]))),
]


@pytest.mark.parametrize(("name", "change"), DOCTORED)
def test_each_check_finds_its_fault(name: str, change: Change, play: Play) -> None:
    changed = change(play)
    assert [check.__name__ for check in ALL if check(play)] == []
    assert name in [check.__name__ for check in ALL if check(changed)]
