# Generated from callboard/_async/actions.py by `make protos`: do not edit.
"""What waits for an answer from outside, and answering it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc

from callboard._enums import enum_value
from callboard._requests import new_request_id
from callboard._sync.caller import Caller
from callboard.v1.event_pb2 import Action, ActionResponse, Permission
from callboard.v1.message_pb2 import ToolResult
from callboard.v1.run_pb2 import RespondRequest, Run
from callboard.v1.run_pb2_grpc import RunServiceStub
from callboard.v1.thread_pb2 import EventScope, ListActionsRequest
from callboard.v1.thread_pb2_grpc import ThreadServiceStub


class Actions:
    """What waits for an answer: questions, permissions, tools of the client: `client.actions`.

    Each way to answer takes an `Action` as `list` gives it, or as an event `action_raised` has it,
    and raises what `runs.respond` raises. `runs.respond` answers several at once, all or none.

    Example:
        for action in client.actions.list():
            if action.kind == callboard.Action.KIND_TOOL_PERMISSION:
                client.actions.deny(action, "Not at night.")
            elif action.kind == callboard.Action.KIND_QUESTION:
                client.actions.answer(action, {"colour": "red"})
    """

    def __init__(self, channel: grpc.Channel, caller: Caller) -> None:
        """Made by the client."""
        self._runs = RunServiceStub(channel)
        self._threads = ThreadServiceStub(channel)
        self._caller = caller

    def list(
        self,
        thread_id: str | None = None,
        *,
        session_id: str | None = None,
        page_size: int = 0,
    ) -> Iterator[Action]:
        """Lists open actions, oldest first.

        Args:
            thread_id: Only those of this thread, or of the job with this id.
            session_id: Those of this whole session, instead.
            page_size: How many to fetch at a time, up to 1,000; 0 leaves it to the server.

        Returns:
            An iterator over all of them, those of the whole server where neither is given. It
            raises NotFound (THREAD_NOT_FOUND).

        Raises:
            ValueError: If both are given.
        """
        if thread_id and session_id:
            raise ValueError("thread_id, session_id: give only one of them")
        request = ListActionsRequest(
            thread_id=session_id or thread_id or "",
            scope=enum_value(EventScope, "session" if session_id else None, "session_id"),
            page_size=page_size,
        )
        return self._caller.pages(self._threads.ListActions, request, lambda page: page.actions)

    def answer(self, action: Action, value: Any) -> Run:
        """Answers a question.

        Args:
            action: The question.
            value: Anything that JSON can hold and that fits the schema of the question.

        Returns:
            The run that asked; it goes on when no action of it is open any more.

        Raises:
            ValueError: If the value is no JSON.
        """
        try:
            answer_json = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"value: {error}") from None
        return self._respond(action, ActionResponse(answer_json=answer_json))

    def allow(self, action: Action) -> Run:
        """Permits a tool call.

        Args:
            action: The request for permission.

        Returns:
            The run that asked.
        """
        return self._respond(action, ActionResponse(permission=Permission(allow=True)))

    def deny(self, action: Action, message: str = "") -> Run:
        """Forbids a tool call.

        Args:
            action: The request for permission.
            message: Why not, for the model.

        Returns:
            The run that asked.
        """
        permission = Permission(allow=False, deny_message=message)
        return self._respond(action, ActionResponse(permission=permission))

    def result(self, action: Action, text: str, *, is_error: bool = False) -> Run:
        """Hands in what a tool of the client returned.

        Args:
            action: The tool call.
            text: The result; JSON where it is structured data.
            is_error: Whether the tool failed; the text says why.

        Returns:
            The run that asked.
        """
        result = ToolResult(
            tool_call_id=action.tool_call.tool_call_id,
            name=action.tool_call.name,
            text=text,
            is_error=is_error,
        )
        return self._respond(action, ActionResponse(tool_result=result))

    def _respond(self, action: Action, response: ActionResponse) -> Run:
        response.action_id = action.action_id
        request = RespondRequest(
            thread_id=action.thread_id, responses=[response], request_id=new_request_id()
        )
        answered = self._caller.repeatable(self._runs.Respond, request)
        return answered.runs[0]
