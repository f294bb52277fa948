"""The offline model: its table, and what it answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.v1.message_pb2 import (
    ContentBlock,
    Message,
    Role,
    StopReason,
    Text,
    ToolCall,
    ToolResult,
)
from callboard_server.models.base import (
    Answer,
    ModelRequest,
    ModelSpecError,
    Piece,
    TextPiece,
    ToolArgumentsPiece,
)
from callboard_server.models.offline import OfflineModel
from callboard_server.models.opening import open_table
from callboard_server.models.rules import Rule, load_rules
from tests.server.doubles import user

EXAMPLES = Path(__file__).parents[2] / "examples"


def supervisor() -> OfflineModel:
    return OfflineModel("supervisor", load_rules(EXAMPLES / "offline/supervisor.toml"))


def calls_of(*calls: ToolCall) -> Message:
    return Message(role=Role.ROLE_ASSISTANT, content=[ContentBlock(tool_call=c) for c in calls])


def result(name: str, value: object, *, is_error: bool = False) -> Message:
    text = value if isinstance(value, str) else json.dumps(value)
    block = ContentBlock(tool_result=ToolResult(name=name, text=text, is_error=is_error))
    return Message(role=Role.ROLE_TOOL, content=[block])


def said(text: str, *, incomplete: bool = False) -> Message:
    block = ContentBlock(text=Text(text=text))
    return Message(role=Role.ROLE_ASSISTANT, content=[block], incomplete=incomplete)


async def stream(model: OfflineModel, *messages: Message) -> tuple[list[Piece], Answer]:
    request = ModelRequest(system="", messages=messages, tools=())
    *pieces, answer = [item async for item in model.stream(request)]
    assert isinstance(answer, Answer)
    return [piece for piece in pieces if not isinstance(piece, Answer)], answer


async def ask(model: OfflineModel, *messages: Message) -> tuple[str, list[tuple[str, object]]]:
    """The text and the calls of an answer."""
    _, answer = await stream(model, *messages)
    text = "".join(block.text.text for block in answer.content)
    calls = [block.tool_call for block in answer.content if block.HasField("tool_call")]
    return text, [(call.name, json.loads(call.arguments_json)) for call in calls]


class TestExamples:
    @pytest.mark.parametrize("name", ["researcher", "coder", "supervisor"])
    async def test_every_example_is_understood(self, name: str) -> None:
        rules = load_rules(EXAMPLES / f"offline/{name}.toml")
        for rule in rules:
            if rule.example:
                _, calls = await ask(OfflineModel(name, rules), user(rule.example))
                assert calls, rule.example

    @pytest.mark.parametrize(
        ("text", "question", "folder"),
        [
            ("Research: how do tasks end? in src/", "how do tasks end?", "src/"),
            ("research what lives in memory", "what lives in memory", ""),
            ("Research: tasks in asyncio in /a b/c", "tasks in asyncio", "/a b/c"),
            ("Research: what is\nthere in .", "what is\nthere", "."),
        ],
    )
    async def test_researcher(self, text: str, question: str, folder: str) -> None:
        model = OfflineModel("researcher", load_rules(EXAMPLES / "offline/researcher.toml"))
        assert await ask(model, user(text)) == (
            "",
            [("search_documents", {"question": question, "folder": folder})],
        )
        findings = 'Found:\n- a.py:1: "{x}"\n\n- b.py:2: y'
        conversation = [user(text), calls_of(ToolCall()), result("search_documents", findings)]
        assert await ask(model, *conversation) == (findings, [])

    async def test_supervisor_launches_two_jobs_at_once(self) -> None:
        _, calls = await ask(supervisor(), user("Research how tasks end and review src/"))
        assert calls == [
            ("launch_job", {"agent": "researcher", "task": "Research: how tasks end"}),
            ("launch_job", {"agent": "coder", "task": "Review src/"}),
        ]

    async def test_supervisor_says_what_it_launched(self) -> None:
        jobs = [{"job_id": "j1", "agent": "researcher"}, {"job_id": "j2", "agent": "coder"}]
        results = [result("launch_job", job) for job in jobs]
        text, calls = await ask(supervisor(), user("x"), calls_of(ToolCall(), ToolCall()), *results)
        assert text == "researcher is at work as job j1.\ncoder is at work as job j2."
        assert calls == []

    async def test_supervisor_tells_the_state_of_jobs(self) -> None:
        job = {"job_id": "j1", "agent": "coder", "state": "RUNNING", "task": "Review src/"}
        asked = [user("How are they doing?"), calls_of(ToolCall(name="list_jobs"))]
        text, _ = await ask(supervisor(), *asked, result("list_jobs", {"jobs": [job]}))
        assert text == "coder, job j1: RUNNING. Its task: Review src/"
        text, _ = await ask(supervisor(), *asked, result("list_jobs", {"jobs": []}))
        assert text == "There are no jobs."

    async def test_supervisor_reports_by_checking_each_finished_job(self) -> None:
        model = supervisor()
        conversation = [user("report")]
        _, calls = await ask(model, *conversation)
        assert calls == [("list_jobs", {"state": "finished"})]
        jobs = [{"job_id": "j1"}, {"job_id": "j2"}]
        conversation += [calls_of(ToolCall()), result("list_jobs", {"jobs": jobs})]
        _, calls = await ask(model, *conversation)
        assert calls == [("check_job", {"job_id": "j1"}), ("check_job", {"job_id": "j2"})]
        brief = {"agent": "coder", "task": "t"}
        conversation += [
            calls_of(ToolCall(), ToolCall()),
            result("check_job", {**brief, "job_id": "j1", "state": "SUCCEEDED", "result": "fine"}),
            result("check_job", {**brief, "job_id": "j2", "state": "FAILED", "error": "no"}),
        ]
        text, calls = await ask(model, *conversation)
        assert calls == []
        assert text.split("\n") == [
            "coder, job j1: SUCCEEDED. Its task: t",
            "fine",
            "",
            "coder, job j2: FAILED. Its task: t",
            "Why: no",
        ]

    @pytest.mark.parametrize(
        ("text", "call"),
        [
            ("check j1", ("check_job", {"job_id": "j1"})),
            ("cancel j1", ("cancel_job", {"job_id": "j1"})),
            (
                "update j1: Research: a: b",
                ("update_job", {"job_id": "j1", "instructions": "Research: a: b"}),
            ),
        ],
    )
    async def test_supervisor_steers_jobs(self, text: str, call: tuple[str, object]) -> None:
        assert await ask(supervisor(), user(text)) == ("", [call])


class TestAnswers:
    async def test_what_fits_no_rule_is_answered_with_help(self) -> None:
        text, calls = await ask(supervisor(), user("Tell me a joke"))
        assert "- Research how asyncio cancels tasks and review src/\n" in text
        assert "- status\n" in text
        assert calls == []

    async def test_an_empty_table_says_so(self) -> None:
        text, _ = await ask(OfflineModel("offline:", ()), user("hello"))
        assert text == "I answer by a table, and mine is empty."

    async def test_notices_are_told_as_they_are(self) -> None:
        notice = said("Job j1 of coder: SUCCEEDED.")
        notice.role, notice.notice_id = Role.ROLE_SYSTEM, "n1"
        assert await ask(supervisor(), user("x"), said("ok"), notice, notice) == (
            "Job j1 of coder: SUCCEEDED.\nJob j1 of coder: SUCCEEDED.",
            [],
        )

    async def test_a_notice_does_not_hide_what_was_asked(self) -> None:
        notice = said("Job j1 is done.")
        notice.role, notice.notice_id = Role.ROLE_SYSTEM, "n1"
        jobs = result("list_jobs", {"jobs": [{"job_id": "j1"}]})
        text, calls = await ask(
            supervisor(), user("report"), calls_of(ToolCall(name="list_jobs")), jobs, notice
        )
        assert text == "Job j1 is done."
        assert calls == [("check_job", {"job_id": "j1"})]

    async def test_errors_are_said_as_they_are(self) -> None:
        failed = result("launch_job", "There is no agent.", is_error=True)
        launched = result("launch_job", {"job_id": "j2", "agent": "coder"})
        text, _ = await ask(supervisor(), user("x"), calls_of(), failed, launched)
        assert text == "There is no agent.\ncoder is at work as job j2."

    async def test_results_without_a_rule_are_said_as_they_are(self) -> None:
        text, _ = await ask(supervisor(), user("x"), calls_of(), result("other", "42"))
        assert text == "42"

    async def test_only_the_last_of_several_texts_is_answered(self) -> None:
        _, calls = await ask(supervisor(), user("check a"), said("x"), user("b"), user("check c"))
        assert calls == [("check_job", {"job_id": "c"})]

    async def test_users_with_names_are_answered_and_other_agents_are_not(self) -> None:
        asked = user('<user name="Zoe">check a</user>')
        others = (
            user("<conversation_summary>check b</conversation_summary>"),
            user('<agent name="ann">check c</agent>'),
        )
        for messages in (asked, *others), (others[0], asked, others[1]), (*others, asked):
            _, calls = await ask(supervisor(), *messages)
            assert calls == [("check_job", {"job_id": "a"})]

    async def test_an_answer_that_was_cut_off_is_given_again(self) -> None:
        _, calls = await ask(supervisor(), user("check a"), said("Che", incomplete=True))
        assert calls == [("check_job", {"job_id": "a"})]

    async def test_same_conversation_same_answer(self) -> None:
        first, second = [await ask(supervisor(), user("status")) for _ in range(2)]
        assert first == second


class TestStream:
    @given(st.lists(st.text(alphabet=" \n\tab.é", min_size=1), max_size=3))
    async def test_pieces_add_up_to_the_answer(self, texts: Sequence[str]) -> None:
        model = OfflineModel("offline:", ())
        pieces, answer = await stream(model, user("x"), *[result("t", text) for text in texts])
        for index, block in enumerate(answer.content):
            streamed = "".join(piece.text for piece in pieces if piece.index == index)
            assert streamed == (block.tool_call.arguments_json or block.text.text)

    async def test_kinds_and_reason(self) -> None:
        rule = Rule.model_validate(
            {"when": "go", "example": "go", "say": "I go now", "call": [{"tool": "walk"}]}
        )
        pieces, answer = await stream(OfflineModel("m", [rule]), user("GO "))
        assert pieces == [
            TextPiece(0, "I"),
            TextPiece(0, " go"),
            TextPiece(0, " now"),
            ToolArgumentsPiece(1, "{}"),
        ]
        assert answer.stop_reason == StopReason.STOP_REASON_TOOL_USE
        assert answer.usage.model_calls == 1
        assert answer.content[1].tool_call.tool_call_id


class TestTable:
    @pytest.mark.parametrize(
        ("table", "problem"),
        [
            ("[[rule]", "table.toml: Expected"),
            ("[rules]", "consists of [[rule]] entries and nothing else"),
            ("[rule]", "consists of [[rule]] entries"),
            ("rule = [3]", "rule 1: must be an object, not 3"),
            ("[[rule]]\nsay='x'", "rule 1: has neither when nor after"),
            ("[[rule]]\nafter='x'", "rule 1: has neither call nor say"),
            ("[[rule]]\nwhen='x'\nsay='y'", "rule 1: has no example"),
            ("[[rule]]\nwhen='('\nexample='('\nsay='y'", "when: is no regular expression: missing"),
            ("[[rule]]\nwhen=3\nexample='3'\nsay='y'", "when: must be text, not 3"),
            ("[[rule]]\nafter='x'\nsey='y'", "rule 1: sey: is not known; did you mean say?"),
            ("[[rule]]\nafter='x'\nsay='{resut.a}'", "{resut} is not known; did you mean result?"),
            ("[[rule]]\nwhen='x'\nexample='x'\neach='y'\nsay='z'", "has each but no after"),
            (
                "[[rule]]\nafter='x'\nsay='y'\n[[rule]]\nafter='x'\ncall=[{tol='y'}]",
                "rule 2: call[0].tool: is required; call[0].tol: is not known; did you mean tool?",
            ),
        ],
    )
    def test_errors_name_file_rule_and_reason(
        self, tmp_path: Path, table: str, problem: str
    ) -> None:
        path = tmp_path / "table.toml"
        path.write_text(table)
        with pytest.raises(ModelSpecError) as caught:
            load_rules(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert problem in str(caught.value)

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelSpecError, match=r"none\.toml: No such file"):
            open_table("offline:none.toml", tmp_path)

    @given(st.text())
    def test_values_are_put_in_as_they_are(self, value: str) -> None:
        rule = Rule.model_validate({"after": "t", "say": "<{result.a}>{result.b}"})
        assert rule.fill_answer({"result": {"a": value, "b": 1}}) == f"<{value}>1"


class TestOpening:
    @pytest.mark.parametrize("path", ["../table.toml", "/etc/passwd"])
    def test_tables_lie_below_the_configuration(self, path: str, tmp_path: Path) -> None:
        with pytest.raises(ModelSpecError, match="lies outside of"):
            open_table(f"offline:{path}", tmp_path)

    def test_opens_a_table(self) -> None:
        assert open_table("offline:offline/coder.toml", EXAMPLES).name
        assert open_table("offline:", EXAMPLES).name == "offline:"
