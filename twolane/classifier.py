"""`twolane classifier train`: add a team's own requests to the task classifier.

Exit codes: 0 trained, 2 wrong use or unreadable files.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from twolane.process.errors import WRONG_USE, ConfigurationError
from twolane.process.flags import OneLineParser

_DESCRIPTION = """Train the classifier on the shipped lines and on labelled requests of yours, report what that gains on
yours by cross-validation, and write a weights file. A policy names it under `classifier: {weights: FILE}`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parse(sys.argv[1:] if argv is None else argv)
    try:
        _train(options)
    except ConfigurationError as error:
        print(f"twolane classifier: {error}", file=sys.stderr)
        return WRONG_USE
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = OneLineParser(prog="twolane classifier", description="Train the task classifier on your own requests.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=OneLineParser)
    train = commands.add_parser("train", help="train on labelled requests", description=_DESCRIPTION)
    train.add_argument("--prompts", type=Path, metavar="FILE.jsonl", help="labelled requests: messages, task, also_ok")
    train.add_argument(
        "--log",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.jsonl",
        help="decision log with texts (--decision-log-prompts) and feedback; repeatable",
    )
    train.add_argument("--out", type=Path, required=True, metavar="FILE.npz", help="weights file to write")
    train.add_argument(
        "--threshold",
        type=float,
        default=0.78,
        metavar="P",
        help="probability of the fast tasks at which the policy's fast lane takes a request (default: 0.78)",
    )
    options = parser.parse_args(argv)
    if options.prompts is None and not options.log:
        train.error("one of --prompts and --log is required")
    return options


def _train(options: argparse.Namespace) -> None:
    """Raises ConfigurationError."""
    import torch

    from gateway.classifier.weights import read_model, write_model
    from training.classifier.lines import read_lines
    from training.classifier.team import read_labelled, read_log, train_team

    team = read_labelled(options.prompts) if options.prompts else []
    for path in options.log:
        team += read_log(path)
    torch.set_num_threads(1)
    if not options.out.parent.is_dir():
        raise ConfigurationError(f"cannot write {options.out}: {options.out.parent} is not a folder")
    trained = train_team(team, list(read_lines()), read_model(), threshold=options.threshold)
    try:
        write_model(trained.model, options.out)
    except OSError as error:
        raise ConfigurationError(f"cannot write {options.out}: {error.strerror or error}") from error
    figures = {"requests": len(team), "shipped": asdict(trained.before), "trained": asdict(trained.after)}
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    sys.exit(main())
