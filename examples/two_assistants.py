"""Two assistants on one thread: each knows who said what, and none takes the other for itself.

Starts a server of its own on a new SQLite file, with the agent of two_assistants.toml. An assistant
of it with a configuration answers first, then the agent's default assistant, then the first again.
At the end everything is read back and checked.

A provider is called if its key is set: ANTHROPIC_API_KEY, OPENAI_API_KEY. In the place of any other
stands a local server that speaks its wire format. CALLBOARD_MODEL_A and CALLBOARD_MODEL_B name the
models, or CALLBOARD_MODEL that of both.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import callboard
from callboard import Assistant, AsyncClient, Delta, Event, RunState
from callboard.v1.message_pb2 import Usage
from cast import Cast
from stage import console, running_server, say
from two_assistants_checks import Play, Turn, check_play
from two_assistants_standins import telling

CONFIG = Path(__file__).with_name("two_assistants.toml")
MODELS = {"A": "openai:gpt-5.4-mini", "B": "anthropic:claude-haiku-5-5"}
"""What answers where no variable names another: in A the assistant, in B the agent itself."""


def choose_models() -> dict[str, str]:
    """Returns which model answers for which of the two."""
    chosen = os.environ.get("CALLBOARD_MODEL")
    return {
        letter: os.environ.get(f"CALLBOARD_MODEL_{letter}") or chosen or model
        for letter, model in MODELS.items()
    }


class Stage:
    """Lets assistants answer on one thread, and keeps what they said.

    Args:
        client: The server.
        cast: Who answers.
        thread_id: The thread.
    """

    def __init__(self, client: AsyncClient, cast: Cast, thread_id: str) -> None:
        self.turns: list[Turn] = []
        self._client = client
        self._cast = cast
        self._thread_id = thread_id

    async def ask(self, assistant: Assistant, model: str, question: str) -> None:
        """Asks an assistant and prints its answer, with what it took."""
        say("you", question, "bold cyan")
        streamed: defaultdict[str, str] = defaultdict(str)
        async with self._client.runs.stream(
            assistant.assistant_id, question, thread_id=self._thread_id
        ) as stream:
            async for item in stream:
                if isinstance(item, Event):
                    if item.HasField("model_call_finished"):
                        say("", item.model_call_finished.error.message, "yellow")
                elif item.kind == Delta.KIND_TEXT:
                    streamed[item.message_id] += item.text
            assert stream.run is not None
            run = await self._client.runs.get(stream.run.run_id)
        if run.state != RunState.RUN_STATE_SUCCEEDED:
            raise SystemExit(f"{assistant.name} did not answer: {run.outcome.error.message}")
        answer = run.outcome.result
        for line in callboard.text_of(answer).splitlines():
            say(assistant.name, line, "bold magenta")
        standin = self._cast.standin_of(model)
        writer = f"{answer.model} (stand-in)" if standin else answer.model
        say("", f"{writer} {describe_usage(run.usage)}", "dim")
        request = standin.requests[-1].body if standin else None
        shown = streamed[answer.message_id]
        self.turns.append(Turn(question, assistant, model, run, shown, request))


def describe_usage(usage: Usage) -> str:
    """Says how many tokens were used."""
    read = f"read {usage.input_tokens:,} tokens"
    if usage.cached_input_tokens:
        read += f" ({usage.cached_input_tokens:,} from the cache)"
    return f"{read}, wrote {usage.output_tokens:,} ({usage.reasoning_tokens:,} of them thinking)"


async def perform(client: AsyncClient, cast: Cast, models: Mapping[str, str]) -> Play:
    """Creates the assistant, lets both answer, and reads back what came of it."""
    ada = await client.assistants.create("agent", name="Ada", config={"model": models["A"]})
    [default] = [each async for each in client.assistants.list(agent="agent", default=True)]
    for assistant in (ada, default):
        config = callboard.to_dict(assistant.config) or "no configuration"
        say("server", f"assistant {assistant.name} of agent {assistant.agent}: {config}")
    console.print()
    thread = await client.threads.create()
    stage = Stage(client, cast, thread.thread_id)
    await stage.ask(ada, models["A"], "who made you?")
    await stage.ask(default, models["B"], "and you?")
    await stage.ask(ada, models["A"], "what did the other one say?")
    console.print()
    log = [event async for event in client.threads.events(thread.thread_id, scope="session")]
    kept = [await client.assistants.get(each.assistant_id) for each in (ada, default)]
    system = tomllib.loads(CONFIG.read_text("utf-8"))["agents"]["agent"]["system"]
    return Play(stage.turns, log, kept, system)


async def run() -> Play:
    """Plays it on a server of its own."""
    models = choose_models()
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="callboard-two-")))
        cast = Cast(stack, telling)
        for model in models.values():
            await cast.add(model)
        environment = {**cast.environment, "CALLBOARD_MODEL_B": models["B"]}
        server = running_server(CONFIG, home / "two.db", environment)
        address = await stack.enter_async_context(server)
        say("server", f"Callboard serves on {address}, on a new database")
        client = await stack.enter_async_context(AsyncClient(address))
        return await perform(client, cast, models)


def main() -> int:
    """Plays it and checks it; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    return check_play(asyncio.run(run()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        os._exit(130)
