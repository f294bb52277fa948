"""What the stand-ins of supervisor.py answer."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Any

from standins.replies import Call, Reply, Script
from standins.requests import entries

_LAUNCH = re.compile(r"(gap of \d+ between primes).+(odd perfect number)")
_REDIRECT = re.compile(r"gap of \d+ is enough")
_CANCEL = re.compile(r"[Ff]orget the perfect number")
_NOTICE = re.compile(r"<notice>(.*)</notice>", re.S)


def supervising(vendor: str, may_answer: asyncio.Event) -> Script:
    """Makes a script that hands out jobs at a few fixed words, and repeats what it is told of them.

    Args:
        vendor: In whose place it speaks.
        may_answer: Set while it may say what came of its calls.
    """

    async def script(body: Any) -> Reply:
        told = list(_told(body))
        news = list(takewhile(lambda each: each[0] != "assistant", reversed(told)))[::-1]
        lines = [_describe(text) for who, text in news if who == "tool"]
        if lines:
            await may_answer.wait()
        lines += (match[1] for _, text in news if (match := _NOTICE.fullmatch(text)))
        if lines:
            return Reply("\n".join(lines))
        calls = _calls(" ".join(text for _, text in news), _jobs(told))
        if calls:
            return Reply(calls=calls)
        return Reply(f"I stand in for {vendor} and am no language model. But I have time to talk.")

    return script


def _told(body: Any) -> Iterator[tuple[str, str]]:
    """Yields the parts of a conversation, each with who says it: user, assistant or tool."""
    for role, part in entries(body):
        match part.get("type"):
            case "tool_result":
                yield "tool", _text(part["content"])
            case "function_call_output":
                yield "tool", part["output"]
            case _:
                yield role, part.get("text") or _text(part.get("content", ""))


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(each["text"] for each in content)


def _jobs(told: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """Finds the job of each agent."""
    jobs = (json.loads(text) for who, text in told if who == "tool")
    return {job["agent"]: job["job_id"] for job in jobs}


def _calls(words: str, jobs: Mapping[str, str]) -> list[Call]:
    """Returns the calls that do what the words say; none where they say something else."""
    if match := _LAUNCH.search(words):
        return [
            _call("launch_job", agent="gaps", task=f"Find a {match[1]}."),
            _call("launch_job", agent="perfect", task=f"Find an {match[2]}."),
        ]
    if match := _REDIRECT.search(words):
        return [_call("update_job", job_id=jobs["gaps"], instructions=f"A {match[0]}.")]
    if _CANCEL.search(words):
        return [_call("cancel_job", job_id=jobs["perfect"])]
    return []


def _call(name: str, **arguments: str) -> Call:
    return Call(name, json.dumps(arguments))


def _describe(result: str) -> str:
    job = json.loads(result)
    note, _, _ = job.get("note", "It goes on by the new instructions.").partition(". ")
    return f"{job['agent']}, job {job['job_id']}: {job['state']}. {note.removesuffix('.')}."
