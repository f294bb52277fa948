"""New ids: random UUIDs."""

from __future__ import annotations

import os
import threading

_BATCH = 256
_LENGTH = 16
_LOCAL = threading.local()
_VARIANTS = "89ab" * 4


def new_id() -> str:
    """Returns a random UUID (RFC 9562, version 4).

    Randomness is fetched from the system in batches, since each fetch lets go of the interpreter's
    lock; and uuid.UUID makes an object of what is only wanted as a text.
    """
    pool: bytes = getattr(_LOCAL, "pool", b"")
    if not pool:
        pool = os.urandom(_BATCH * _LENGTH)
    _LOCAL.pool = pool[_LENGTH:]
    digits = pool[:_LENGTH].hex()
    variant = _VARIANTS[int(digits[16], 16)]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
