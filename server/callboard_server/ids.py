"""New ids: random UUIDs."""

from __future__ import annotations

import os
import threading
import uuid

_BATCH = 256
_LENGTH = 16
_LOCAL = threading.local()


def new_id() -> str:
    """Returns a random UUID (RFC 9562, version 4).

    Randomness is fetched from the system in batches: each fetch lets go of the interpreter's lock,
    and getting it back from a busy writer thread costs far more than the bytes.
    """
    pool: bytes = getattr(_LOCAL, "pool", b"")
    if not pool:
        pool = os.urandom(_BATCH * _LENGTH)
    _LOCAL.pool = pool[_LENGTH:]
    return str(uuid.UUID(bytes=pool[:_LENGTH], version=4))
