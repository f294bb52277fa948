"""What receivers of webhooks need: was it sent by the server that knows the secret, and just now?

Webhooks are signed as Standard Webhooks 1.0.0 says, https://www.standardwebhooks.com, with its
symmetric scheme: libraries for that, in any language, check them as well.

Example:
    from callboard import webhooks

    try:
        told = webhooks.verify(request.headers, await request.body(), secret)
    except webhooks.InvalidWebhook:
        return Response(status_code=400)
    print(told["type"], told["data"]["job_id"])
"""

import base64
import binascii
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

TOLERANCE = 300.0
"""How many seconds the clocks of sender and receiver may be apart."""

_PREFIX, _VERSION = "whsec_", "v1"
_FEWEST_BYTES, _MOST_BYTES = 24, 64


class InvalidWebhook(ValueError):
    """A request is no webhook of the sender that knows the secret, or an old one."""


def new_secret() -> str:
    """Makes a secret, to be known to the server and the receiver alone.

    Returns:
        32 random bytes as text that begins with "whsec_".
    """
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def verify(
    headers: Mapping[str, str],
    body: bytes | str,
    secret: str,
    *,
    tolerance: float = TOLERANCE,
    now: float | None = None,
) -> dict[str, Any]:
    """Checks who has sent a webhook, and when.

    The same webhook may come more than once; then it has the same "webhook-id".

    Args:
        headers: The request's headers, with names in any case.
        body: The request's body as it came, not as parsed and written anew.
        secret: What the server's configuration has for this webhook: "whsec_" and Base64.
        tolerance: How many seconds old, or ahead, it may be.
        now: The time in seconds since the epoch; that of the system when left out.

    Returns:
        The body as JSON: "type", "timestamp" and "data".

    Raises:
        InvalidWebhook: A header is missing, it was not signed with this secret, or it is too old.
        ValueError: The secret is none.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        webhook_id, stamp = given["webhook-id"], given["webhook-timestamp"]
        signatures = given["webhook-signature"].split()
    except KeyError as error:
        raise InvalidWebhook(f"the header {error.args[0]} is missing") from None
    data = body.encode() if isinstance(body, str) else body
    expected = _signature(_key(secret), webhook_id, stamp, data).encode()
    # All of them, so that the time it takes tells nothing.
    matches = [hmac.compare_digest(each.encode(), expected) for each in signatures]
    if not any(matches):
        raise InvalidWebhook("it is not signed with this secret")
    _check_time(stamp, tolerance, time.time() if now is None else now)
    return _parsed(data)


def sign(secret: str, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Signs a webhook, as the server does; receivers can test with it.

    Args:
        secret: What the receiver knows, too: "whsec_" and Base64.
        webhook_id: Identifies the webhook, however often it is sent.
        timestamp: When it is sent, in seconds since the epoch.
        body: What is sent.

    Returns:
        The headers to send it with.

    Raises:
        ValueError: The secret is none.
    """
    stamp = str(timestamp)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": stamp,
        "webhook-signature": _signature(_key(secret), webhook_id, stamp, body),
    }


def _signature(key: bytes, webhook_id: str, stamp: str, body: bytes) -> str:
    content = b".".join((webhook_id.encode(), stamp.encode(), body))
    return f"{_VERSION},{base64.b64encode(hmac.digest(key, content, 'sha256')).decode()}"


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_PREFIX) or not _FEWEST_BYTES <= len(key) <= _MOST_BYTES:
        # Without what it is: that may be nearly a secret.
        raise ValueError(
            f"a secret is {_PREFIX} and {_FEWEST_BYTES} to {_MOST_BYTES} bytes in Base64; "
            "callboard.webhooks.new_secret() makes one"
        )
    return key


def _check_time(stamp: str, tolerance: float, now: float) -> None:
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        raise InvalidWebhook("webhook-timestamp is no number of seconds")
    if abs(now - int(stamp)) > tolerance:
        raise InvalidWebhook(f"it was not sent within the last {tolerance:g} seconds")


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except ValueError:
        raise InvalidWebhook("the body is no JSON") from None
    if not isinstance(parsed, dict):
        raise InvalidWebhook("the body is no JSON object")
    return parsed
