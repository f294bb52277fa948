"""Generates the stubs in client/callboard/v1 from protos/callboard/v1.

The stubs are committed, so that installing the SDK needs no protoc; `--check` tells whether they
are what the protos say.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from drift import ROOT, settle

# grpcio-tools up to 1.80 writes code for protobuf 6.31.1, which runs on protobuf 6 and 7. Newer
# ones would force protobuf 7 on every program that installs the SDK. A change here moves the
# grpcio and protobuf floors in pyproject.toml.
PINS = ["grpcio-tools==1.80.0", "mypy-protobuf==5.1.0"]

PROTOS = ROOT / "protos"
PACKAGE = "callboard/v1"


def protoc() -> Path:
    """The Python of a virtual environment that holds the pinned generators and nothing else."""
    home = ROOT / ".build" / "protoc"
    python, pinned = home / "bin" / "python", home / "pins.txt"
    if not pinned.exists() or pinned.read_text().split() != PINS:
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PINS], check=True)
        pinned.write_text("\n".join(PINS))
    return python


def generate(out: Path) -> None:
    """Writes the stubs of every proto below `out`."""
    python = protoc()
    subprocess.run(
        [
            python,
            "-m",
            "grpc_tools.protoc",
            f"--plugin=protoc-gen-mypy={python.parent / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={python.parent / 'protoc-gen-mypy_grpc'}",
            f"--proto_path={PROTOS}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=quiet:{out}",
            f"--mypy_grpc_out=quiet:{out}",
            *sorted(PROTOS.glob(f"{PACKAGE}/*.proto")),
        ],
        check=True,
    )
    # protoc writes an empty gRPC module for a proto that has no service.
    for module in out.glob(f"{PACKAGE}/*_pb2_grpc.py"):
        if "class " not in module.read_text():
            module.unlink()
            module.with_suffix(".pyi").unlink(missing_ok=True)


def main() -> int:
    """Runs the command line: no argument writes, `--check` compares."""
    if not any(PROTOS.glob(f"{PACKAGE}/*.proto")):
        print(f"No .proto file in {PROTOS / PACKAGE}.")
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        generate(out)
        return settle(
            out / PACKAGE, ROOT / "client" / PACKAGE, "*_pb2*.py*", check="--check" in sys.argv[1:]
        )


if __name__ == "__main__":
    sys.exit(main())
