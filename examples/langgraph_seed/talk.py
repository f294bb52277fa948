"""Talks with the supervisor while two jobs of its run: python talk.py [ADDRESS]."""

from __future__ import annotations

import sys

import callboard
from callboard import Client, Event
from callboard.v1.message_pb2 import Role
from callboard.v1.run_pb2 import Run


class Conversation:
    """A thread with the supervisor, printed line by line."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._thread_id = client.threads.create().thread_id

    def say(self, text: str) -> None:
        """Says something and prints the answer."""
        run = self._client.runs.wait(self._begin(text).run_id)
        self._print("supervisor", callboard.text_of(run.outcome.result))

    def say_and_listen(self, text: str) -> None:
        """Says something and prints what is answered until no job is at work any more."""
        run = self._begin(text)
        session = self._client.threads.stream(
            self._thread_id,
            scope="session",
            kinds=["message_added"],
            after_sequence=run.created_sequence,
            until="done",
        )
        with session as events:
            for event in events:
                if isinstance(event, Event) and event.thread_id == self._thread_id:
                    message = event.message_added.message
                    if message.role == Role.ROLE_ASSISTANT:
                        self._print("supervisor", callboard.text_of(message))

    def job(self, agent: str) -> str:
        """The id of an agent's job: a user reads it, a model knows it from the conversation."""
        jobs = self._client.jobs.list(parent_thread_id=self._thread_id)
        return next(job.job_id for job in jobs if job.agent == agent)

    def _begin(self, text: str) -> Run:
        self._print("you", text)
        return self._client.runs.create("supervisor", text, thread_id=self._thread_id)

    @staticmethod
    def _print(who: str, text: str) -> None:
        for line in text.splitlines():
            print(f"{who:<12}{line}")


def main(address: str = "127.0.0.1:50051") -> None:
    """Launches, talks on, checks, stops, redirects, and is told."""
    with Client(address) as client:
        talk = Conversation(client)
        talk.say("Research batteries in 900 sources and write a parser in 900 files")
        talk.say("Who is there?")
        talk.say(f"Check {talk.job('researcher')}")
        talk.say(f"Stop {talk.job('coder')}")
        talk.say_and_listen(f"Tell {talk.job('researcher')}: Research magnets in 3 sources")


if __name__ == "__main__":
    main(*sys.argv[1:])
