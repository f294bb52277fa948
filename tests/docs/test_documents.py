"""Every command, program and file of the documents does what they say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.docs.markdown import MANUALS, blocks
from tests.docs.reader import Reader
from tests.docs.transcript import Ids, commands, matches


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", MANUALS, ids=lambda page: page.name)
def test_document_does_what_it_says(page: Path, tmp_path: Path) -> None:
    with Reader(tmp_path) as reader:
        for block in blocks(page):
            reader.follow(block)
    if reader.missing:
        names = ", ".join(sorted(reader.missing))
        problem = f"{page.name}: not everything was run, for there is no {names}: make tools"
        if os.environ.get("CI") == "true":
            pytest.fail(problem)
        pytest.skip(problem)


class TestTranscript:
    """The comparison itself, for it must not let everything pass."""

    SHOWN = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
    REAL = "a370e7bc-deec-4216-bdf1-11133bda1c0c"

    def test_ids_are_learnt_and_stay_the_same(self) -> None:
        ids = Ids()
        assert matches([f"job {self.SHOWN}"], f"job {self.REAL}\n", ids)
        assert ids.place(f"get {self.SHOWN} {self.SHOWN[:8]}") == f"get {self.REAL} {self.REAL[:8]}"
        assert matches([self.SHOWN], self.REAL, ids)
        assert not matches([self.SHOWN], self.SHOWN, ids)

    def test_an_id_shown_twice_is_the_same_twice(self) -> None:
        shown = [f"{self.SHOWN} {self.SHOWN}"]
        assert matches(shown, f"{self.REAL} {self.REAL}", Ids())
        assert not matches(shown, f"{self.REAL} {self.SHOWN}", Ids())

    @pytest.mark.parametrize(
        ("shown", "printed"),
        [
            ("took 0.3s", "took 12s"),
            ("at 2026-01-01T10:00:00.5Z", "at 2027-12-31T23:59:59.123456789Z"),
            ("at 10:00:00.123", "at 23:59:59.999"),
            ("114,688 bytes", "9 bytes"),
            ("a     b", "a  b"),
            ("...\nlast", "first\nsecond\nlast"),
            ("first\n...", "first"),
        ],
    )
    def test_what_varies_may_vary(self, shown: str, printed: str) -> None:
        assert matches(shown.splitlines(), printed, Ids())

    @pytest.mark.parametrize(
        ("shown", "printed"),
        [
            ("3 jobs", "4 jobs"),
            ("a", "a\nb"),
            ("a\nb", "a"),
            ("took 0.3s", "took long"),
            ("...\nlast", "last\nbut one"),
            ("a.c", "abc"),
        ],
    )
    def test_the_rest_may_not(self, shown: str, printed: str) -> None:
        assert not matches(shown.splitlines(), printed, Ids())

    def test_commands_go_over_lines(self) -> None:
        first, second = commands("$ one \\\n  'more\nmost'\nout\n$ two\n")
        assert (first.line, first.output) == ("one \\\n  'more\nmost'", ["out"])
        assert (second.line, second.output) == ("two", [])
