"""How the SDK connects: targets and channel options."""

from __future__ import annotations

from urllib.parse import urlsplit

import grpc

_MESSAGE_BYTES = 16 * 1024 * 1024

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    # A connection that a router dropped silently is found within 40 seconds, also while no call is
    # open, so that the next call does not have to find out. The server permits such pings.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own pauses between connection attempts grow to two minutes, and a call that is made
    # within one fails at once. They are shorter than the pauses between calls (`_backoff`), so that
    # the first call after the server is back finds it.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # How long an attempt may take, 20 seconds without this: one to a host that was away, and let
    # packets vanish, would not end when it is back.
    ("grpc.min_reconnect_backoff_ms", 5_000),
)


def parse_target(
    target: str, credentials: grpc.ChannelCredentials | None
) -> tuple[str, grpc.ChannelCredentials | None]:
    """The address that gRPC understands, and the credentials to use; None means no TLS.

    Raises:
        ValueError: If the target has a scheme or a form that is not supported.
    """
    if "://" not in target or target.startswith(("unix:", "dns:", "ipv4:", "ipv6:", "xds:")):
        return target, credentials
    url = urlsplit(target)
    if url.scheme not in ("grpc", "grpcs") or not url.netloc or url.path not in ("", "/"):
        raise ValueError(
            f"target: {target!r} is not one of grpc://host:port, grpcs://host:port, unix:/path, "
            "host:port"
        )
    if url.scheme == "grpcs":
        return url.netloc, credentials or grpc.ssl_channel_credentials()
    if credentials is not None:
        raise ValueError(f"target: {target!r} is not encrypted; credentials need grpcs://")
    return url.netloc, None
