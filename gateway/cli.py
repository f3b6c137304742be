"""The gateway's commands: `serve`, `policy check FILE`, `policy schema`, `policy explain REQUEST.json`.

Exit codes: 0 good, 1 the work failed, 2 wrong use or configuration, with one line on stderr that names the cause.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from gateway.app import serve
from gateway.core.route import choose
from gateway.errors import CannotStart, GatewayError
from gateway.policy_files.load import load
from gateway.policy_files.schema import editor_schema
from gateway.settings import describe_settings, flag_of, read_settings
from gateway.web.openai import parse_chat
from gateway.weights.tasks import open_classifier

GOOD: Final = 0
FAILED: Final = 1
WRONG_USE: Final = 2
_FLAGS: Final = ("host", "port", "admin_host", "admin_port", "policy", "keys_file", "decision_log")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    line = list(sys.argv[1:] if argv is None else argv)
    try:
        read = _parser().parse_args(line)
        return int(read.run(read))
    except CannotStart as error:
        print(f"twolane {line[0] if line else ''}: {error.message}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        return GOOD


class _OneLineParser(argparse.ArgumentParser):
    """Wrong use is told in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see --help)", file=sys.stderr)
        raise SystemExit(WRONG_USE)


def _parser() -> argparse.ArgumentParser:
    parser = _OneLineParser(prog="twolane", description="The gateway: one endpoint in front of the lanes.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_OneLineParser)
    serving = commands.add_parser(
        "serve",
        help="run the gateway",
        description="Run the gateway until SIGTERM. SIGHUP reads the policy again.",
        epilog="Settings from the environment (default); the flags above win:\n" + describe_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in _FLAGS:
        serving.add_argument(flag_of(name), dest=name, metavar="VALUE", default=argparse.SUPPRESS)
    serving.set_defaults(run=_serve)
    policy = commands.add_parser("policy", help="look at a policy file")
    verbs = policy.add_subparsers(required=True, metavar="VERB", parser_class=_OneLineParser)
    check = verbs.add_parser("check", help="load a policy; say what is wrong with it, by file, line and column")
    check.add_argument("file", type=Path)
    check.set_defaults(run=_check)
    schema = verbs.add_parser("schema", help="print the language as a JSON Schema, for editors")
    schema.set_defaults(run=_schema)
    explain = verbs.add_parser("explain", help="say how a chat request would be routed, without sending it")
    explain.add_argument("request", type=Path, metavar="REQUEST.json")
    explain.add_argument("--policy", type=Path, default=None, help="the policy file (TWOLANE_POLICY)")
    explain.set_defaults(run=_explain)
    return parser


def _serve(read: argparse.Namespace) -> int:
    given = {name: value for name, value in vars(read).items() if name in _FLAGS}
    settings = read_settings(os.environ, given)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings))
    return GOOD


def _check(read: argparse.Namespace) -> int:
    policy = load(read.file, os.environ)
    print(f"{read.file}: good; {len(policy.targets)} targets, {len(policy.rules)} routes, hash {policy.version}")
    return GOOD


def _schema(_: argparse.Namespace) -> int:
    print(json.dumps(editor_schema(), indent=1))
    return GOOD


def _explain(read: argparse.Namespace) -> int:
    settings = read_settings(os.environ, {})
    policy = load(read.policy or settings.policy, os.environ)
    try:
        query = parse_chat(_read_bytes(read.request), {}, now_s=time.monotonic(), principal=None)
        classification = open_classifier()(query)
        plan = choose(policy, query, classification, wall_s=time.time(), draw=0.0)
    except CannotStart:
        raise
    except GatewayError as error:
        print(f"{read.request}: {error.status} {error.code}: {error.message}")
        return FAILED
    print(f"task     {classification.task} ({classification.confidence:.2f}, by {classification.evidence})")
    print(f"route    {plan.route}{' (private)' if plan.private else ''}")
    print(f"targets  {', '.join(candidate.target.name for candidate in plan.candidates)}")
    print(f"needs    {', '.join(sorted(query.needs))}")
    checks = f"answers, hold {plan.checks.hold}" if plan.checks else "nothing"
    print(f"check    {checks}; policy {plan.policy}")
    return GOOD


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise CannotStart(f"{path}: {fault.strerror}") from fault
