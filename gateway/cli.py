"""The gateway's commands: `serve`, `policy check FILE`, `policy schema`, `policy explain REQUEST.json`, and those of
`gateway.simulation.commands`.

Exit codes: 0 good, 1 the work failed, 2 wrong use or configuration, with one line on stderr that names the cause.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Final, NoReturn

from gateway.app import serve
from gateway.classifier.weights import open_classifier
from gateway.errors import CannotStart, GatewayError
from gateway.policy_files.load import load
from gateway.policy_files.schema import editor_schema
from gateway.reliability.admission import admit
from gateway.routing.route import plan_request
from gateway.server.supervisor import run_supervised
from gateway.settings import describe_settings, flag_of, read_settings
from gateway.simulation.commands import add_verbs
from gateway.types import Health, Plan, Query
from gateway.web.parse_request import once_each, parse_chat

GOOD: Final = 0
FAILED: Final = 1
WRONG_USE: Final = 2
_FLAGS: Final = ("host", "port", "admin_host", "admin_port", "policy", "keys_file", "decision_log", "workers")


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
    explain.add_argument(
        "--header", action="append", default=[], metavar="NAME=VALUE", type=_header, help="sent with it"
    )
    explain.add_argument("--key", metavar="NAME", help="the name of the key it is sent with")
    explain.add_argument("--at", type=datetime.fromisoformat, metavar="TIME", help="when, as 2026-07-01T12:00+00:00")
    explain.set_defaults(run=_explain)
    add_verbs(verbs)
    return parser


def _serve(read: argparse.Namespace) -> int:
    given = {name: value for name, value in vars(read).items() if name in _FLAGS}
    settings = read_settings(os.environ, given)
    if settings.workers > 1:
        line = [part for name, value in given.items() if name != "workers" for part in (flag_of(name), value)]
        return run_supervised(settings, ["serve", *line])
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


def _header(text: str) -> tuple[bytes, bytes]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name.lower().encode(), value.encode()


def _explain(read: argparse.Namespace) -> int:
    settings = read_settings(os.environ, {})
    policy = load(read.policy or settings.policy, os.environ)
    wall_s = read.at.timestamp() if read.at else time.time()
    try:
        headers = once_each(read.header)
        query = parse_chat(_read_bytes(read.request), headers, now_s=time.monotonic(), principal=read.key)
        classification = open_classifier()(query)
        plan = plan_request(policy, query, classification, wall_s=wall_s, sample=0.0)
    except CannotStart:
        raise
    except GatewayError as error:
        print(f"{read.request}: {error.status} {error.code}: {error.message}")
        return FAILED
    print(f"task     {classification.task} ({classification.confidence:.2f}, by {classification.evidence})")
    print(f"route    {plan.route}{' (private)' if plan.private else ''}")
    print(f"targets  {', '.join(candidate.target.name for candidate in plan.candidates)}")
    print(f"needs    {', '.join(sorted(query.needs))}")
    checks = f"answers, hold {plan.checks.buffer}" if plan.checks else "nothing"
    print(f"check    {checks}; policy {plan.policy}")
    for line in (*_terms(plan), *_verdicts(plan, query)):
        print(line)
    return GOOD


def _terms(plan: Plan) -> Iterator[str]:
    """What else the route says, where it says something."""
    first = plan.candidates[0]
    if first.slo is not None:
        numbers = {"answers": first.slo.p95_ms, "first words": first.slo.first_token_p95_ms}
        said = ", ".join(f"{what} in {number:g} ms" for what, number in numbers.items() if number < inf)
        yield f"promise  of {first.target.name}, 19 in 20: {said}"
    if plan.deadline_ms is not None:
        part = f", {plan.attempt_ms:g} ms an attempt" if plan.attempt_ms is not None else ""
        yield f"time     {plan.deadline_ms:g} ms{part}"
    if first.hedge is not None:
        after = "its p95" if first.hedge.after_ms is None else f"{first.hedge.after_ms:g} ms"
        yield f"hedge    after {after}, at most {first.hedge.max_share:.0%} of requests"
    if plan.shadow is not None:
        yield f"shadow   {plan.shadow.candidate.target.name}, {plan.shadow.share:.0%} of requests"


def _verdicts(plan: Plan, query: Query) -> Iterator[str]:
    """May each be called, by what the policy alone says? Nobody is asked, so load, health and residency are unknown."""
    for place, candidate in enumerate(plan.candidates, 1):
        target, verdict = candidate.target, admit(candidate, query, Health())
        says = "may be asked" if verdict.admitted else f"is passed over: {verdict.reason}, {verdict.detail}"
        unknown = "; what it can do it says itself" if target.capabilities is None else ""
        yield f"{'try ' + str(place):<9}{target.name} ({target.location}) {says}{unknown}"


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise CannotStart(f"{path}: {fault.strerror}") from fault
