"""The page for those who come from LangGraph has all of ours, and shows the example as it is."""

from __future__ import annotations

from callboard.kit.definition import Kit
from callboard.kit.dialects import DIALECTS
from callboard.v1.lifecycle_pb2 import MultitaskStrategy, RunState
from callboard_server.engine.assistants import default_id
from tests.docs.markdown import ROOT, blocks, table

PAGE = ROOT / "docs" / "coming-from-langgraph.md"
EXAMPLE = ROOT / "examples" / "langgraph_seed" / "callboard.toml"


def test_every_state_of_a_run_is_there() -> None:
    told = [each for _, ours, _ in table(PAGE, "## Run states") for each in ours.split(", ")]
    states = [name.removeprefix("RUN_STATE_") for name in RunState.keys()[1:]]
    assert sorted(told) == sorted(states)


def test_every_strategy_is_there() -> None:
    told = [ours for _, ours, _ in table(PAGE, "## Multitask strategies")]
    names = [name.removeprefix("MULTITASK_STRATEGY_") for name in MultitaskStrategy.keys()[1:]]
    assert sorted(told) == sorted(names)


def test_every_tool_is_there_by_both_names() -> None:
    rows = table(PAGE, "## Tools of the supervisor")
    kits = {names: list(Kit(["agent"], names=names).tools) for names in DIALECTS}
    assert [row[0].strip("`") for row in rows] == kits["deepagents"]
    assert [row[2].strip("`") for row in rows] == kits["callboard"]


def test_default_assistants_have_the_ids_that_those_of_graphs_have() -> None:
    # What LangGraph's server answers for a graph with the name "agent".
    assert default_id("agent") == "fe096781-5601-53d2-b2f6-0d3403f7e9ca"


def test_the_example_is_shown_as_it_is() -> None:
    [shown] = [block.text for block in blocks(PAGE) if block.language == "toml"]
    assert EXAMPLE.read_text("utf-8").endswith(f"\n\n{shown}")
