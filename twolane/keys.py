"""`twolane keys new NAME`: create an API key, and the line of a keys file that accepts it.

The key is printed once and not stored; the file holds its SHA-256. Exit codes: 0 created, 2 wrong use.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from twolane.process.api_keys import NAME, KeyScope, add_key, key_line, new_key
from twolane.process.errors import WRONG_USE, ConfigurationError
from twolane.process.flags import OneLineParser
from twolane.process.locations import location_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parse(sys.argv[1:] if argv is None else argv)
    key = new_key()
    line = key_line(options.name, key, _restrictions(options))
    try:
        if options.file is not None:
            add_key(options.file, line)
    except ConfigurationError as error:
        print(f"twolane keys: {error}", file=sys.stderr)
        return WRONG_USE
    print(key)
    if options.file is None:
        print(line, file=sys.stderr)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = OneLineParser(prog="twolane keys", description="Create API keys for the gateway and the worker.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=OneLineParser)
    new = commands.add_parser(
        "new", help="create a key", description="Create an API key. It is printed once and not stored."
    )
    new.add_argument("name", type=_name, metavar="NAME", help="name of the key's owner, written to the decision log")
    new.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help="keys file to add the key's hash to (default: print the line on stderr)",
    )
    new.add_argument(
        "--scope",
        type=KeyScope,
        choices=list(KeyScope),
        action="append",
        dest="scopes",
        help="ask: send requests; metrics: read /metrics; admin: use the admin port; repeatable (default: ask)",
    )
    new.add_argument(
        "--model", action="append", dest="models", metavar="NAME", help="allow only this model; repeatable"
    )
    new.add_argument(
        "--route", action="append", dest="routes", metavar="NAME", help="allow only this route; repeatable"
    )
    new.add_argument(
        "--location",
        type=_location,
        action="append",
        dest="locations",
        metavar="NAME",
        help="allow only targets in this location; repeatable",
    )
    new.add_argument("--private-only", action="store_true", help="treat every request of the key as private")
    return parser.parse_args(argv)


def _restrictions(options: argparse.Namespace) -> list[str]:
    """The options of the key's line in a keys file."""
    lists = {
        "scopes": options.scopes,
        "models": options.models,
        "routes": options.routes,
        "locations": options.locations,
    }
    written = [f"{name}={','.join(values)}" for name, values in lists.items() if values]
    return [*written, "private-only"] if options.private_only else written


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a valid name: use up to 64 letters, digits and _ . @ -")
    return text


def _location(text: str) -> str:
    try:
        return location_of(text)
    except ValueError as fault:
        raise argparse.ArgumentTypeError(str(fault)) from None
