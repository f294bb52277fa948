"""A supervisor in a program of your own: Claude hands work to agents of a Callboard server.

    python outside_supervisor.py ADDRESS NAME FILE MODEL [AGENT ...]

Each line of the input is said to it; what it says is indented. It is told of its jobs, and has no
need to ask. NAME is its home on the server, FILE keeps the conversation: killed at any point and
started again, it goes on where it was, and does nothing twice.
"""

import json
import os
import sys
from pathlib import Path
from textwrap import indent
from threading import Lock, Thread
from traceback import print_exc
from typing import Any

import anthropic

import callboard


class Conversation:
    """All that was said. The last message tells what comes next: a restart goes on from there."""

    def __init__(self, tools: callboard.SupervisorTools, file: Path, model: str) -> None:
        self._tools, self._file, self._model = tools, file, model
        self._claude = anthropic.Anthropic()
        self._turn = Lock()
        file.touch()
        self._kept = [json.loads(line) for line in file.read_text("utf-8").splitlines()]

    def hear(self, text: str, notice_id: str = "") -> None:
        """Says something to Claude, a notice only once, and lets it do what it wants to do then."""
        with self._turn:
            if not notice_id or all(each["notice_id"] != notice_id for each in self._kept):
                self._keep("user", text, notice_id)
            self.go_on()

    def go_on(self) -> None:
        """Lets Claude speak and use its tools until it has no more to do."""
        while self._kept:
            last = self._kept[-1]["message"]
            if last["role"] == "user":
                self._keep("assistant", self._ask())
            elif calls := [each for each in last["content"] if each["type"] == "tool_use"]:
                self._keep("user", [self._call(each) for each in calls])
            else:
                break
        print(end="\n> ", flush=True)

    def _ask(self) -> list[dict[str, Any]]:
        with self._claude.messages.stream(
            model=self._model,
            max_tokens=4096,
            system=self._tools.prompt,
            tools=self._tools.anthropic(),
            messages=[each["message"] for each in self._kept],
        ) as stream:
            answer = stream.get_final_message()
        for block in answer.content:
            if block.type == "text":
                print(indent(block.text, "  "), flush=True)
        return [block.to_dict() for block in answer.content]

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        # The id sees to it that a call that is made again, after a crash, has its effect once.
        told = self._tools.call(call["name"], call["input"], call_id=call["id"])
        result = {"type": "tool_result", "tool_use_id": call["id"]}
        return {**result, "content": told, "is_error": told.is_error}

    def _keep(self, role: str, content: object, notice_id: str = "") -> None:
        self._kept.append({"notice_id": notice_id, "message": {"role": role, "content": content}})
        with self._file.open("ab", buffering=0) as file:
            file.write(json.dumps(self._kept[-1]).encode() + b"\n")


def listen(notices: callboard.NoticeStream, conversation: Conversation) -> None:
    """Says each notice to Claude. It is marked as read when Claude has done what it wanted to."""
    try:
        for notice in notices:
            conversation.hear(notice.text, notice.notice_id)
    except Exception:
        print_exc()
        os._exit(1)


def main(address: str, name: str, file: str, model: str, *agents: str) -> None:
    with callboard.Client(address) as client:
        supervisor = client.supervisor(name, agents or None)
        conversation = Conversation(supervisor.tools, Path(file), model)
        conversation.go_on()
        with supervisor.notices(max_downtime=None) as notices:
            listener = Thread(target=listen, args=(notices, conversation))
            listener.start()
            for line in filter(str.strip, sys.stdin):
                conversation.hear(line)
        listener.join()


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
