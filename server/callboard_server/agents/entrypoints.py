"""Finds the objects that a configuration names: `file.py:object` or `package.module:object`.

What is wrong is told when the server starts, on the operator's own console: with the exception's
text, and the line of the operator's code where it was raised.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from types import ModuleType

from callboard_server.config import ConfigError
from callboard_server.validation import suggest


def load_object(entrypoint: str, base: Path) -> object:
    """Imports what an entrypoint names.

    Args:
        entrypoint: `file.py:object`, with the file named from `base`, or `package.module:object`.
        base: The folder of the configuration.

    Raises:
        ConfigError: There is no such object, or its module fails.
    """
    place, colon, name = entrypoint.rpartition(":")
    if not (colon and place and name):
        raise ConfigError('is not written as "file.py:object" or "package.module:object"')
    module = _import_file((base / place).resolve()) if place.endswith(".py") else _import(place)
    try:
        return getattr(module, name)
    except AttributeError:
        names = [known for known in vars(module) if not known.startswith("_")]
        raise ConfigError(f"{place} has no object {name}; {suggest(name, names)}") from None


def _import_file(path: Path) -> ModuleType:
    """Imports a file the way that running it would: its folder is where it imports from."""
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    if (folder := str(path.parent)) not in sys.path:
        sys.path.insert(0, folder)
    module = _import(path.stem)
    if (found := getattr(module, "__file__", None)) is None or Path(found).resolve() != path:
        raise ConfigError(
            f"{path.name} is hidden by another module {path.stem} "
            f"({found or 'built in'}); give the file another name"
        )
    return module


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    # A module that calls sys.exit() is as broken as any other.
    except (Exception, SystemExit) as error:
        raise ConfigError(_describe(error)) from error


def _describe(error: BaseException) -> str:
    kind = type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {kind}: {error.msg}"
    frames = [
        frame
        for frame in extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    place = f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
    return f"{place}{kind}: {error}"
