"""Writes the table of errors in docs/contract.md from the comments of error.proto.

`--check` tells whether the committed table is what the proto says.
"""

import re
import sys

from drift import ROOT

PROTO = ROOT / "protos" / "callboard" / "v1" / "error.proto"
PAGE = ROOT / "docs" / "contract.md"
BEGIN, END = "<!-- from error.proto: `make protos` -->\n", "<!-- end -->\n"

_VALUE = re.compile(r"((?:  //.*\n)+)  ERROR_REASON_(\w+) = (\d+);")
_CODE = re.compile(r"([A-Z_]{6,})(?: with (\w+))?\. ")


def table() -> str:
    """The reasons, their gRPC codes and what they mean."""
    rows = ["| reason | gRPC code | meaning |", "| --- | --- | --- |"]
    for comment, name, number in _VALUE.findall(PROTO.read_text("utf-8")):
        text = " ".join(line.strip().removeprefix("// ") for line in comment.splitlines())
        if number == "0":
            continue
        code = _CODE.match(text)
        if code:
            text = text[code.end() :]
        shown = f"{code[1]}{', ' + code[2] if code[2] else ''}" if code else "(of a run)"
        rows.append(f"| `{name}` | {shown} | {text.replace('|', chr(92) + '|')} |")
    return "".join(f"{row}\n" for row in rows)


def main() -> int:
    """Runs the command line: no argument writes, `--check` compares."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    committed, _, after = rest.partition(END)
    if committed == table():
        return 0
    if "--check" in sys.argv[1:]:
        print(f"The table in {PAGE.relative_to(ROOT)} is not what error.proto says: `make protos`.")
        return 1
    PAGE.write_text(before + BEGIN + table() + END + after, "utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
