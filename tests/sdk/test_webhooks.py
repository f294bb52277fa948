"""Signatures of webhooks: what was signed is known again, and nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard import webhooks

SECRET = webhooks.new_secret()
NOW = 1_700_000_000
BODY = b'{"type":"job.succeeded"}'

# The example that the libraries of Standard Webhooks are tested with.
THEIR_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
THEIR_HEADERS = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
THEIR_BODY = b'{"test": 2432232314}'


def signed(body: bytes = BODY) -> dict[str, str]:
    return webhooks.sign(SECRET, "an-id", NOW, body)


def test_signatures_are_those_of_standard_webhooks() -> None:
    assert webhooks.sign(THEIR_SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, THEIR_BODY) == (
        THEIR_HEADERS
    )
    told = webhooks.verify(THEIR_HEADERS, THEIR_BODY, THEIR_SECRET, now=1614265330)
    assert told == {"test": 2432232314}


@given(st.dictionaries(st.text(), st.text()), st.floats(-300, 300))
def test_what_was_signed_just_now_is_known_again(told: dict[str, str], late: float) -> None:
    body = json.dumps(told).encode()
    headers = {name.title(): value for name, value in signed(body).items()}
    assert webhooks.verify(headers, body, SECRET, now=NOW + late) == told
    assert webhooks.verify(headers, body.decode(), SECRET, now=NOW + late) == told


@given(st.integers(0, len(BODY) - 1), st.integers(1, 255))
def test_a_changed_body_is_refused(place: int, change: int) -> None:
    body = bytearray(BODY)
    body[place] ^= change
    with pytest.raises(webhooks.InvalidWebhook, match="not signed"):
        webhooks.verify(signed(), bytes(body), SECRET, now=NOW)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("webhook-id", "another", "not signed"),
        ("webhook-timestamp", str(NOW + 1), "not signed"),
        ("webhook-timestamp", "soon", "not signed"),
        ("webhook-signature", "", "not signed"),
        ("webhook-signature", "v1,", "not signed"),
        ("webhook-signature", "v1,é", "not signed"),
        ("webhook-signature", None, "header webhook-signature is missing"),
        ("webhook-id", None, "header webhook-id is missing"),
    ],
)
def test_changed_headers_are_refused(name: str, value: str | None, why: str) -> None:
    headers = {key: each for key, each in {**signed(), name: value}.items() if each is not None}
    with pytest.raises(webhooks.InvalidWebhook, match=why):
        webhooks.verify(headers, BODY, SECRET, now=NOW)


def test_another_secret_is_refused_and_one_signature_of_several_is_enough() -> None:
    with pytest.raises(webhooks.InvalidWebhook, match="not signed"):
        webhooks.verify(signed(), BODY, webhooks.new_secret(), now=NOW)
    headers = signed()
    headers["webhook-signature"] = f"v1a,xyz v1,AAAA {headers['webhook-signature']}"
    assert webhooks.verify(headers, BODY, SECRET, now=NOW) == {"type": "job.succeeded"}


@pytest.mark.parametrize("late", [-301, 301])
def test_what_is_old_is_refused(late: int) -> None:
    with pytest.raises(webhooks.InvalidWebhook, match="within the last 300 seconds"):
        webhooks.verify(signed(), BODY, SECRET, now=NOW + late)
    webhooks.verify(signed(), BODY, SECRET, now=NOW + late, tolerance=302)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff"])
def test_only_json_objects_come_back(body: bytes) -> None:
    with pytest.raises(webhooks.InvalidWebhook, match="JSON"):
        webhooks.verify(signed(body), body, SECRET, now=NOW)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_c2hvcnQ=", "plain", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
)
def test_what_is_no_secret_is_refused_without_showing_it(secret: str) -> None:
    with pytest.raises(ValueError, match="a secret is whsec_ and 24 to 64 bytes") as caught:
        webhooks.verify(signed(), BODY, secret, now=NOW)
    assert not secret.strip("whsec_") or secret not in str(caught.value)
