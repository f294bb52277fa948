"""The peer's environment: `.peer` beside `.venv`, made where it is missing or out of date."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from shutil import rmtree

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".peer"
PYTHON = str(FOLDER / "bin" / "python")
REQUIREMENTS = Path(__file__).parent / "requirements.txt"


class PeerMissing(Exception):
    """The peer cannot be installed; the reason stands above it on standard error."""


def prepare() -> None:
    """Installs the peer, if that is not done yet.

    Raises:
        PeerMissing: It cannot be installed.
    """
    installed = FOLDER / "requirements.txt"
    wanted = REQUIREMENTS.read_text(encoding="utf-8")
    if installed.exists() and installed.read_text(encoding="utf-8") == wanted:
        return
    print("Installing the peer into .peer", file=sys.stderr)
    rmtree(FOLDER, ignore_errors=True)
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
        subprocess.run([*pip, "--requirement", str(REQUIREMENTS)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PeerMissing("the peer cannot be installed") from error
    installed.write_text(wanted, encoding="utf-8")


def versions() -> dict[str, str]:
    """Returns the version of everything in the environment."""
    command = [PYTHON, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {package["name"]: package["version"] for package in json.loads(listed)}
