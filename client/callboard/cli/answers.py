"""Answering what a run asks for, right in the conversation."""

from __future__ import annotations

import json
from typing import Any

from callboard import (
    Action,
    CallboardError,
    Client,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from callboard.cli.failures import CommandError, checks_arguments, words_of
from callboard.cli.gists import short
from callboard.cli.output import local_time, one_line, printable
from callboard.cli.screen import Screen

_SCHEMA = 200
_PROMPTS = {
    Action.KIND_QUESTION: "answer> ",
    Action.KIND_TOOL_PERMISSION: "y, or n and why> ",
    Action.KIND_CLIENT_TOOL: "result> ",
}
_LATER = {
    Action.KIND_QUESTION: "--answer JSON",
    Action.KIND_TOOL_PERMISSION: "--allow (or --deny WHY)",
    Action.KIND_CLIENT_TOOL: "--result TEXT",
}
_TYPES = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
}


class Answerer:
    """Asks whoever talks for what a run needs, and hands it in."""

    def __init__(self, client: Client, screen: Screen) -> None:
        """Reads answers from `screen`, for runs of the server of `client`."""
        self._client = client
        self._screen = screen

    def ask(self, action: Action, *, of_job: bool = False) -> bool:
        """Asks until there is an answer that fits, or there will be none.

        Args:
            action: What is asked.
            of_job: Whether a job asks, and not who is talked to.

        Returns:
            Whether the action is settled. Otherwise it stays open; how to answer later was told.

        Raises:
            CallboardError: If the answer does not reach the server, and nobody is there who could
                try again.
        """
        question = question_text(action, of_job=of_job)
        while (line := self._read(action, question)) is not None:
            if line and self._hand_in(action, line):
                return True
            question = ""
        later = f"callboard respond {action.action_id} {_LATER.get(action.kind, '')}"
        self._screen.write(f"  left open: {later}\n", "dim")
        return False

    def _read(self, action: Action, question: str) -> str | None:
        try:
            return self._screen.read(_PROMPTS.get(action.kind, "answer> "), question)
        except KeyboardInterrupt:
            if not self._screen.is_interactive:
                raise
            return None

    def _hand_in(self, action: Action, line: str) -> bool:
        """Answers with a line; returns whether the action is settled."""
        try:
            with checks_arguments():
                self._respond(action, line)
        except CommandError as error:
            self._screen.complain(str(error))
            return False
        except InvalidArgument as error:
            wrong = [violation.description for violation in error.field_violations]
            self._screen.complain("; ".join(wrong) or error.message)
            return False
        except (FailedPrecondition, NotFound) as error:
            # Somebody else was faster, or it is too late.
            self._screen.complain(error.message)
        except CallboardError as error:
            if not self._screen.is_interactive:
                raise
            self._screen.complain(words_of(error))
            return False
        return True

    def _respond(self, action: Action, line: str) -> None:
        actions = self._client.actions
        match action.kind:
            case Action.KIND_TOOL_PERMISSION:
                word, _, why = line.partition(" ")
                if line.lower() in ("y", "yes"):
                    actions.allow(action)
                elif word.lower() in ("n", "no"):
                    actions.deny(action, why.strip())
                else:
                    raise CommandError("say y, or n and why")
            case Action.KIND_CLIENT_TOOL:
                actions.result(action, line)
            case _:
                actions.answer(action, meant_by(action, line))


def meant_by(action: Action, text: str) -> Any:
    """What somebody means who typed an answer: JSON where it is some, else text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    # 42 is a number, but not where text is asked for.
    schema = json.loads(action.schema_json) if action.schema_json else None
    wants_text = isinstance(schema, dict) and schema.get("type") == "string"
    return text if wants_text and not isinstance(value, str) else value


def question_text(action: Action, *, of_job: bool = False) -> str:
    """What an action asks, whole: nobody should permit what they do not see.

    Args:
        action: What is asked.
        of_job: Whether a job asks, and not who is talked to.
    """
    who = f"{action.author}, job {short(action.thread_id)}," if of_job else action.author
    late = f" (until {local_time(action.deadline)})" if action.HasField("deadline") else ""
    # Further lines of it cannot pass for something else.
    return "\n  ".join(printable(f"? {one_line(who)} {_asks(action)}{late}").splitlines()) + "\n"


def _asks(action: Action) -> str:
    call = one_line(f"{action.tool_call.name}: {action.tool_call.arguments_json}")
    match action.kind:
        case Action.KIND_TOOL_PERMISSION:
            return f"wants to use {call}"
        case Action.KIND_CLIENT_TOOL:
            return f"needs the result of {call}"
        case _:
            wanted = _wanted(json.loads(action.schema_json)) if action.schema_json else ""
            return f"asks: {action.question.strip()}{wanted}"


def _wanted(schema: Any) -> str:
    """What fits the schema of an answer."""
    match schema:
        case {"enum": [*values]}:
            shown = ", ".join(
                each if isinstance(each, str) else json.dumps(each) for each in values
            )
            return f" (one of {shown})"
        case {"type": str(name)} if name in _TYPES:
            return f" ({_TYPES[name]})"
        case _:
            text = json.dumps(schema, ensure_ascii=False)
            return f" (JSON that fits {text if len(text) <= _SCHEMA else text[:_SCHEMA] + '…'})"
