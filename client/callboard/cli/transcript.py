"""What is shown of a conversation: what is said, tool calls, tokens, failures."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from callboard import (
    Action,
    Delta,
    Event,
    Message,
    Role,
    RunState,
    ToolCall,
    ToolResult,
    Usage,
    text_of,
)
from callboard.cli.answers import question_text
from callboard.cli.durations import format_duration
from callboard.cli.gists import notice_gist, progress_gist
from callboard.cli.output import Output, printable
from callboard.cli.screen import Screen
from callboard.cli.speech import Speech
from callboard.cli.tool_lines import call_text, result_text
from callboard.v1.event_pb2 import ModelCallFinished, RunFinished, RunQueued


class JsonTranscript:
    """Prints every event for machines."""

    def __init__(self, out: Output) -> None:
        """Prints to `out`."""
        self._out = out

    def show(self, item: Event | Delta) -> None:
        """Prints an event. The pieces of a message are left out, for it comes as a whole."""
        if isinstance(item, Event):
            self._out.json(item)

    def show_elsewhere(self, event: Event) -> None:
        """Prints an event."""
        self._out.json(event)

    def announce(self, action: Action, *, of_job: bool) -> bool:
        """Prints nothing: the event was."""
        return False


class Transcript:
    """Prints a conversation for people."""

    def __init__(self, screen: Screen, speech: Speech, *, verbose: bool = False) -> None:
        """Prints to `screen`.

        Args:
            screen: Where to.
            speech: Prints there what is said.
            verbose: Whether to print all that tools were given and gave.
        """
        self._screen = screen
        self._speech = speech
        self._verbose = verbose
        self._calls: dict[str, tuple[str, ToolCall]] = {}
        """The calls that have no result yet, and whose they are."""
        self._at_work: dict[str, str] = {}
        """Those of them that run just now."""
        self._models: dict[str, str] = {}
        """The model of each run that is not over."""
        self._voidable: set[str] = set()
        """The runs that have said something that is void if they begin again."""

    def show_past(self, messages: Sequence[Message], count: int) -> None:
        """Prints how a conversation of `count` messages ends so far."""
        if messages and len(messages) < count:
            self._screen.write_line(f"({count - len(messages):,} earlier messages)")
        self._speech.names_all = True
        for message in messages:
            match message.role:
                case Role.ROLE_USER:
                    self._speech.show_question(message)
                case Role.ROLE_SYSTEM:
                    self._screen.write_line(f"· {text_of(message)}")
                case _:
                    self._show_message(message)
        self._speech.names_all = False
        self._speech.begin_turn()

    def show(self, item: Event | Delta) -> None:
        """Prints what is new."""
        if isinstance(item, Delta):
            self._speech.show_delta(item)
            return
        match item.WhichOneof("payload"):
            case "message_added":
                message = item.message_added.message
                self._show_message(message)
                if message.role == Role.ROLE_ASSISTANT and not item.step_path:
                    self._voidable.add(item.run_id)
            case "message_discarded":
                self._speech.take_back(item.message_discarded.message_id)
            case "model_call_finished":
                self._show_failed_call(item.model_call_finished, item.time)
            case "claim_voided":
                self._show_beginning_again(item.run_id)
            case "context_compacted":
                self._screen.write_line("· what was said up to here is summarised now")
            case "notice_added":
                self._screen.write_line(f"· {notice_gist(item.notice_added.notice)}")
            case "tool_started":
                call = item.tool_started.call
                self._at_work[call.tool_call_id] = call_text(call)
                self._show_tools_at_work()
            case "run_created":
                self._speech.begin_turn()
            case "run_progress":
                self._screen.show_status(progress_gist(item.run_progress.progress))
            case "run_queued":
                self._show_restart(item.run_id, item.run_queued, item.time)
            case "run_finished":
                self._show_end(item.run_id, item.run_finished)

    def show_elsewhere(self, event: Event) -> None:
        """Prints how far another thread is."""
        if event.HasField("run_progress"):
            gist = progress_gist(event.run_progress.progress)
            self._screen.show_status(f"{event.actor.name}: {gist}")

    def announce(self, action: Action, *, of_job: bool) -> bool:
        """Prints what is asked above a message that is being typed."""
        if not self._screen.awaits_message:
            return False
        question = question_text(action, of_job=of_job)
        self._screen.write(f"{question}  (Enter alone answers it)\n", "yellow")
        return True

    def _show_message(self, message: Message) -> None:
        if message.role == Role.ROLE_ASSISTANT:
            self._models[message.run_id] = message.model
            self._speech.show_answer(message)
        self._show_tools(message)

    def _show_tools(self, message: Message) -> None:
        for block in message.content:
            if block.HasField("tool_call"):
                self._calls[block.tool_call.tool_call_id] = message.author, block.tool_call
            elif block.HasField("tool_result"):
                self._show_result(block.tool_result)

    def _show_result(self, result: ToolResult) -> None:
        unknown = "", ToolCall(name=result.name)
        author, call = self._calls.pop(result.tool_call_id, unknown)
        if author:
            self._speech.head(author)
        self._screen.write_line(f"⚙ {call_text(call)} · {result_text(result)}")
        if self._verbose:
            self._show_whole("arguments", call.arguments_json)
            self._show_whole("result", result.text)
        self._at_work.pop(result.tool_call_id, None)
        self._show_tools_at_work()

    def _show_tools_at_work(self) -> None:
        if self._at_work:
            self._screen.show_status(f"⚙ {', '.join(self._at_work.values())} …")

    def _show_whole(self, name: str, text: str) -> None:
        lines = printable(text).splitlines()
        whole = f" {text}" if len(lines) == 1 else "".join(f"\n      {line}" for line in lines)
        self._screen.write(f"    {name}:{whole}\n", "dim")

    def _show_failed_call(self, failed: ModelCallFinished, now: Timestamp) -> None:
        # Where it will not be tried again, the end of the run says so.
        if failed.HasField("retry_time"):
            self._speech.take_back(failed.message_id)
            self._show_retry(failed.error.message, failed.retry_time, now)

    def _show_restart(self, run_id: str, queued: RunQueued, now: Timestamp) -> None:
        match queued.reason:
            case RunQueued.REASON_RETRY:
                self._speech.take_back_of(run_id)
                self._show_retry(queued.error.message, queued.start_after, now)
            case RunQueued.REASON_DRAINED:
                self._speech.take_back_of(run_id)
                self._screen.write_line("↻ the server stops; this goes on when it is back")
            case RunQueued.REASON_RESCUED:
                self._speech.take_back_of(run_id)
                self._screen.write_line("↻ the server was gone; this goes on from what is recorded")

    def _show_beginning_again(self, run_id: str) -> None:
        if run_id in self._voidable:
            self._screen.write_line("✗ what it said before is void: it begins again", "red")

    def _show_retry(self, error: str, time: Timestamp, now: Timestamp) -> None:
        pause = format_duration((time.ToNanoseconds() - now.ToNanoseconds()) / 1e9)
        self._screen.write_line(f"↻ trying again in {pause}: {error}")

    def _show_end(self, run_id: str, finished: RunFinished) -> None:
        self._speech.take_back_of(run_id)
        if finished.state == RunState.RUN_STATE_CANCELLED:
            self._screen.write_line("(stopped)")
        elif finished.state in (RunState.RUN_STATE_FAILED, RunState.RUN_STATE_TIMED_OUT):
            self._screen.complain(finished.outcome.error.message)
        self._voidable.discard(run_id)
        model = self._models.pop(run_id, "")
        if told := _tokens(finished.outcome.usage):
            self._screen.write_line(" · ".join(filter(None, [told, model])))


def _tokens(usage: Usage) -> str:
    """What was used; empty where nothing was, as by an agent without a model."""
    if not (usage.input_tokens or usage.output_tokens):
        return ""
    cached = f" ({usage.cached_input_tokens:,} cached)" if usage.cached_input_tokens else ""
    reasoning = f" ({usage.reasoning_tokens:,} reasoning)" if usage.reasoning_tokens else ""
    calls = f", {usage.model_calls:,} calls" if usage.model_calls > 1 else ""
    read, written = f"{usage.input_tokens:,} tokens in{cached}", f"{usage.output_tokens:,} out"
    return f"{read}, {written}{reasoning}{calls}"
