"""Writes the synchronous SDK, client/callboard/_sync, from the asynchronous one, _async.

It replaces words in the text, so that docstrings and their examples change with the code. What
has no synchronous counterpart (tasks, gather) belongs outside _async; mypy and ruff find what
was left behind. `--check` tells whether the committed files are what their source says.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from drift import ROOT, settle

HEADER = "# Generated from callboard/_async/{} by `make protos`: do not edit.\n"
PACKAGE = ROOT / "client" / "callboard"
RUFF = Path(sys.executable).with_name("ruff")

REPLACEMENTS = {
    re.compile(pattern): replacement
    for pattern, replacement in {
        r"\basync (def|for|with)\b": r"\1",
        r"\bawait ": "",
        r"\b__a(enter|exit|iter|next)__\b": r"__\1__",
        r"\ba(close|iter|next)\b": r"\1",
        r"\bStopAsyncIteration\b": "StopIteration",
        r"\b(Abstract)?Async([A-Z]\w*)": r"\1\2",
        r"(?<=\w)AsyncStub\b": "Stub",
        r"\basynccontextmanager\b": "contextmanager",
        r"\b_async\b": "_sync",
        r"\bgrpc\.aio\.AioRpcError\b": "grpc.RpcError",
        r"\bgrpc\.aio\b": "grpc",
        r"\bimport asyncio\b": "import threading\nimport time",
        r"\basyncio\.sleep\b": "time.sleep",
        r"\basyncio\.(Condition|Event|Lock)\b": r"threading.\1",
        r"\basyncio\.run\((.*)\)": r"\1",
        r"\b([Aa])n asynchronous\b": r"\1 synchronous",
        r"\bAwaitable\[(\w+)\]": r"\1",
        r"\bAsynchronous": "Synchronous",
        r"\basynchronous": "synchronous",
    }.items()
}


def to_sync(text: str) -> str:
    """The synchronous form of a module."""
    for pattern, replacement in REPLACEMENTS.items():
        text = pattern.sub(replacement, text)
    return text


def generate(out: Path) -> None:
    """Writes the synchronous form of every module below `out`."""
    source = PACKAGE / "_async"
    for path in source.rglob("*.py"):
        name = path.relative_to(source)
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(HEADER.format(name) + to_sync(path.read_text()))
    # Fewer words mean other line breaks, and imports that nobody uses any more.
    settings = ["--quiet", "--no-cache", "--config", str(ROOT / "pyproject.toml"), str(out)]
    rules = ["--select", "F401,I,UP", "--fix-only"]
    subprocess.run([RUFF, "check", *rules, *settings], check=True)
    subprocess.run([RUFF, "format", *settings], check=True)


def main() -> int:
    """Runs the command line: no argument writes, `--check` compares."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "_sync"
        out.mkdir()
        generate(out)
        return settle(out, PACKAGE / "_sync", "*.py", check="--check" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
