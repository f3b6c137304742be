"""`twolane keys new NAME`: a key for whoever may ask, and the line of a keys file that knows it.

The key itself is printed once and kept nowhere; the file gets its SHA-256. Exit codes: 0 made, 2 wrong use.
"""

import argparse
import hashlib
import re
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from twolane.process.flags import WRONG_USE, OneLineParser

KEY_BYTES: Final = 32
_NAME: Final = re.compile(r"[\w.@-]{1,64}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    read = _parse(sys.argv[1:] if argv is None else argv)
    key = f"tl-{secrets.token_urlsafe(KEY_BYTES)}"
    try:
        if read.file is not None:
            append(read.file, read.name, key)
    except (OSError, ValueError) as fault:
        print(f"twolane keys: {read.file}: {getattr(fault, 'strerror', None) or fault}", file=sys.stderr)
        return WRONG_USE
    print(key)
    if read.file is None:
        print(line_of(read.name, key), file=sys.stderr)
    return 0


def line_of(name: str, key: str) -> str:
    """The line that lets this key in."""
    return f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def append(file: Path, name: str, key: str) -> None:
    """Add a line to a keys file. Raises ValueError if the name has one there already, OSError if it cannot write."""
    known = file.read_text(encoding="utf-8") if file.exists() else ""
    if any(line.split()[:1] == [name] for line in known.splitlines()):
        raise ValueError(f"{name} has a key there already")
    with file.open("a", encoding="utf-8") as end:
        end.write(("" if known.endswith("\n") or not known else "\n") + line_of(name, key) + "\n")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = OneLineParser(prog="twolane keys", description="Keys for the gateway and the worker.")
    verbs = parser.add_subparsers(required=True, metavar="VERB", parser_class=OneLineParser)
    new = verbs.add_parser("new", help="make a key: printed once, kept nowhere")
    new.add_argument("name", type=_name, help="whose key it is: stands in the decision log")
    new.add_argument("--file", type=Path, metavar="FILE", help="keys file to add its hash to; else the line is printed")
    return parser.parse_args(argv)


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name: letters, digits and _ . @ -, 64 at most")
    return text
