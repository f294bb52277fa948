"""Reading when a provider wants to be asked again."""

from __future__ import annotations

import pytest

from callboard_server.models.retry_after import read_retry_after

NOON = "Wed, 21 Oct 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"retry-after": "Wed, 21 Oct 2026 12:00:30 GMT", "date": NOON}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2026 11:00:00 GMT", "date": NOON}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2026 12:00:30 GMT"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon", "date": NOON}, None),
        ({}, None),
    ],
)
def test_what_headers_ask_for(headers: dict[str, str], seconds: float | None) -> None:
    assert read_retry_after(headers) == seconds
