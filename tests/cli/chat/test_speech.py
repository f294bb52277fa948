"""Whatever pieces an answer comes in, it is shown once, and as it is."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout

from hypothesis import given
from hypothesis import strategies as st

from callboard import ContentBlock, Delta, Event, Message, Role, Text
from callboard.cli.output import Output, printable
from callboard.cli.screen import Screen
from callboard.cli.speech import Speech
from callboard.cli.transcript import Transcript

# Tabs are left out: how wide they are depends on where a piece begins.
PIECES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t"), min_size=1),
    max_size=8,
)


def shown(items: Sequence[Event | Delta]) -> str:
    """What is printed of a conversation with "ada"."""
    with redirect_stdout(io.StringIO()) as printed:
        screen = Screen(Output(as_json=False))
        transcript = Transcript(screen, Speech(screen, "ada", shows_thoughts=False))
        for item in items:
            transcript.show(item)
    return printed.getvalue()


def deltas(message_id: str, pieces: Sequence[str]) -> list[Event | Delta]:
    offsets = [len("".join(pieces[:place]).encode()) for place in range(len(pieces))]
    return [
        Delta(
            message_id=message_id,
            author="ada",
            kind=Delta.KIND_TEXT,
            text=piece,
            offset=offset,
        )
        for piece, offset in zip(pieces, offsets, strict=True)
    ]


def added(message_id: str, text: str, author: str = "ada") -> Event:
    event = Event()
    event.message_added.message.CopyFrom(
        Message(
            message_id=message_id,
            author=author,
            role=Role.ROLE_ASSISTANT,
            content=[ContentBlock(text=Text(text=text))],
        )
    )
    return event


def lines(text: str) -> str:
    """A text as whole lines."""
    text = printable(text).rstrip("\n")
    return f"{text}\n" if text else ""


@given(PIECES, st.integers(0, 8))
def test_in_pieces_of_which_the_last_may_be_missed(pieces: list[str], seen: int) -> None:
    text = "".join(pieces)
    items = [*deltas("m", pieces)[:seen], added("m", text)]
    assert shown(items).rstrip("\n") == lines(text).rstrip("\n")
    assert shown(items).endswith("\n") or not lines(text)


@given(PIECES, st.integers(0, 8), st.text(st.characters(categories=["L"]), min_size=1))
def test_with_another_in_between(pieces: list[str], place: int, other: str) -> None:
    text = "".join(pieces)
    first = printable("".join(pieces[:place]))
    items = deltas("m", pieces)
    items = [*items[:place], added("o", other, "bob"), *items[place:], added("m", text)]
    told = shown(items)
    assert told.count(f"bob:\n{other}\n") == 1
    before, _, after = told.partition(f"bob:\n{other}\n")
    assert before.rstrip("\n") == first.rstrip("\n")
    rest = printable(text).removeprefix(first).rstrip("\n")
    assert after == (f"ada:\n{rest}\n" if rest else "")
