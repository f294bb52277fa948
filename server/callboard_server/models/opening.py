"""Opens models by what a configuration calls them."""

from __future__ import annotations

from pathlib import Path

from callboard_server.models.base import Model, ModelSpecError
from callboard_server.models.offline import OfflineModel
from callboard_server.models.rules import load_rules


def open_model(spec: str, base: Path) -> Model:
    """Opens a model.

    Args:
        spec: `offline:TABLE`, where the table is a TOML file.
        base: The folder that files are named from, and that they must lie in: a request may bring
            a spec of its own.

    Raises:
        ModelSpecError: The spec or its table is wrong.
    """
    provider, colon, rest = spec.partition(":")
    if not colon or provider != "offline":
        raise ModelSpecError(
            f"{spec!r} is no model that this server can open. "
            'Supported: "offline:TABLE.toml" (a table of patterns and tool calls).'
        )
    path = (base / rest).resolve()
    if not path.is_relative_to(base.resolve()):
        raise ModelSpecError(f"{spec!r} lies outside of {base}")
    return OfflineModel(spec, load_rules(path) if rest else ())
