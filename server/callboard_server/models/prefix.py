"""What a provider's state is bound to: all that the request said before it."""

from __future__ import annotations

import hashlib
import json


class Prefix:
    """A running digest of a request.

    Signed thinking and reasoning items go back only where everything before them is as it was when
    the provider made them. An adapter adds what it renders, in order, and compares.

    Args:
        parts: What comes before the first message: account, model, system prompt, tools. JSON.
    """

    def __init__(self, *parts: object) -> None:
        self._hash = hashlib.sha256()
        for part in parts:
            self.add(part)

    def add(self, rendered: object) -> None:
        """Adds a rendered message; JSON, whose keys may come in any order."""
        text = json.dumps(rendered, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        self._hash.update(text.encode("utf-8", "surrogatepass") + b"\n")

    def digest(self) -> bytes:
        """Returns the digest of everything added so far."""
        return self._hash.digest()
