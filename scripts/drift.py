"""Puts generated files in their place, or says how the committed ones differ."""

from difflib import unified_diff
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def settle(generated: Path, committed: Path, pattern: str, *, check: bool) -> int:
    """Makes the files of `committed` that match `pattern` equal to the generated ones.

    With `check` nothing is written: differences are printed, and 1 is returned if there are any.
    """
    new, old = _read(generated, pattern), _read(committed, pattern)
    changed = sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name))
    for name in changed:
        target = committed / name
        shown = target.relative_to(ROOT)
        if check:
            lines = old.get(name, "").splitlines(), new.get(name, "").splitlines()
            print(
                *unified_diff(*lines, f"committed {shown}", f"generated {shown}", "", "", 1, ""),
                sep="\n",
            )
        elif name in new:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(new[name])
            print(f"wrote {shown}")
        else:
            target.unlink()
            print(f"removed {shown}")
    if check and changed:
        print(
            f"{len(changed)} generated file(s) are not what their source says: run `make protos`."
        )
        return 1
    return 0


def _read(folder: Path, pattern: str) -> dict[Path, str]:
    return {
        path.relative_to(folder): path.read_text()
        for path in folder.rglob(pattern)
        if path.parent.name != "__pycache__"
    }
