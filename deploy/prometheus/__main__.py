"""`python -m deploy.prometheus --out DIR`: a copy of the rules whose alerts link to your runbooks and Grafana."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.prometheus.links import GRAFANA, RULES, RUNBOOKS, linked


def main(argv: Sequence[str] | None = None) -> int:
    """Write every file of rules; return 0."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.prometheus", description="Write the rules with other links."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    add_links(parser)
    read = parser.parse_args(argv)
    read.out.mkdir(parents=True, exist_ok=True)
    for file in sorted(RULES.glob("*.yml")):
        text = linked(file.read_text(encoding="utf-8"), runbooks=read.runbooks, grafana=read.grafana)
        (read.out / file.name).write_text(text, encoding="utf-8")
    return 0


def add_links(parser: argparse.ArgumentParser, *, grafana: str | None = GRAFANA) -> None:
    """Add --runbooks and --grafana."""
    parser.add_argument("--runbooks", default=RUNBOOKS, metavar="URL", help="published runbooks (default: %(default)s)")
    parser.add_argument("--grafana", default=grafana, metavar="URL", help="Grafana (default: %(default)s)")


if __name__ == "__main__":
    sys.exit(main())
