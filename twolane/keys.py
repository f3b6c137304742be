"""`twolane keys new NAME`: a key for whoever may ask, and the line of a keys file that knows it.

The key itself is printed once and kept nowhere; the file gets its SHA-256. Exit codes: 0 made, 2 wrong use.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from twolane.process.api_keys import NAME, add_key, key_line, new_key
from twolane.process.errors import ConfigurationError
from twolane.process.flags import WRONG_USE, OneLineParser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    read = _parse(sys.argv[1:] if argv is None else argv)
    key = new_key()
    try:
        if read.file is not None:
            add_key(read.file, read.name, key)
    except ConfigurationError as error:
        print(f"twolane keys: {error}", file=sys.stderr)
        return WRONG_USE
    print(key)
    if read.file is None:
        print(key_line(read.name, key), file=sys.stderr)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = OneLineParser(prog="twolane keys", description="Keys for the gateway and the worker.")
    verbs = parser.add_subparsers(required=True, metavar="VERB", parser_class=OneLineParser)
    new = verbs.add_parser("new", help="make a key: printed once, kept nowhere")
    new.add_argument("name", type=_name, help="whose key it is: stands in the decision log")
    new.add_argument("--file", type=Path, metavar="FILE", help="keys file to add its hash to; else the line is printed")
    return parser.parse_args(argv)


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name: letters, digits and _ . @ -, 64 at most")
    return text
