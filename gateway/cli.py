"""The gateway's commands: `serve` (see `gateway.serve_command`), `policy check`, `policy schema`, `policy explain`, and
those of `gateway.simulation.commands`.

Exit codes: 0 success, 1 failure, 2 usage or configuration error, with one line on stderr that names the cause.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Final, NoReturn

from gateway import serve_command
from gateway.beyond_chat import CHAT_PATH
from gateway.classifier.weights import FILE, open_classifier, read_model
from gateway.errors import CannotStart, GatewayError
from gateway.parameters import ignored_by
from gateway.policy_files.gates import gate_problems
from gateway.policy_files.limits import budget_problems
from gateway.policy_files.load import load
from gateway.policy_files.locations import describe_locations, location_problems
from gateway.policy_files.schema import editor_schema
from gateway.reliability.admission import admit
from gateway.routing.route import plan_request
from gateway.settings import read_settings
from gateway.simulation.commands import add_verbs
from gateway.types import Health, Plan, Query
from gateway.upstreams.registry import credential_problems, describe_call
from gateway.web.apis.table import APIS
from gateway.web.parse_request import unique_headers
from twolane.process.api_keys import Key, load_keys
from twolane.process.errors import WRONG_USE, ConfigurationError
from twolane.process.flags import OneLineParser
from twolane.process.locations import listed

SUCCESS: Final = 0
FAILURE: Final = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["serve"]:
        return serve_command.main(arguments)
    try:
        options, unknown = _parser().parse_known_args(arguments)
        if unknown:
            _reject_unknown(arguments, unknown)
        return int(options.run(options))
    except (CannotStart, ConfigurationError) as error:
        print(f"twolane {arguments[0] if arguments else ''}: {error}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        return SUCCESS


def _reject_unknown(arguments: Sequence[str], unknown: Sequence[str]) -> NoReturn:
    """Name the command; argparse itself would name only the program, because it collects these at the top level."""
    parser = OneLineParser(prog=" ".join(("twolane", *arguments[:2])))
    parser.error(f"unrecognized arguments: {' '.join(unknown)}")


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="twolane", description="Twolane's gateway: one OpenAI-compatible endpoint in front of several models."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=OneLineParser)
    serving = commands.add_parser("serve", help="run the gateway", add_help=False)
    serving.set_defaults(run=None)
    policy = commands.add_parser("policy", help="check, explain and simulate policies")
    verbs = policy.add_subparsers(required=True, metavar="VERB", parser_class=OneLineParser)
    check = verbs.add_parser("check", help="validate a policy file; errors name file, line and column")
    check.add_argument("file", type=Path, metavar="FILE", help="policy file")
    check.set_defaults(run=_check)
    schema = verbs.add_parser("schema", help="print the JSON Schema of policy files, for editors")
    schema.set_defaults(run=_schema)
    explain = verbs.add_parser("explain", help="show how a request would be routed, without sending it")
    explain.add_argument("request", type=Path, metavar="REQUEST.json", help="body of the request")
    explain.add_argument(
        "--path", choices=APIS, default=CHAT_PATH, help="path that it is sent to (default: %(default)s)"
    )
    explain.add_argument(
        "--policy", type=Path, default=None, metavar="FILE", help="policy file (default: TWOLANE_POLICY)"
    )
    explain.add_argument(
        "--header", action="append", default=[], metavar="NAME=VALUE", type=_header, help="request header; repeatable"
    )
    explain.add_argument(
        "--key", metavar="NAME", help="name of the API key of the request; with a keys file, its restrictions apply"
    )
    explain.add_argument(
        "--at",
        type=_time,
        metavar="TIME",
        help="time of the request, such as 2026-07-01T12:00+00:00 (default: now)",
    )
    explain.set_defaults(run=_explain)
    add_verbs(verbs)
    return parser


def _check(options: argparse.Namespace) -> int:
    policy = load(options.file, os.environ)
    if policy.weights is not None:
        read_model(policy.weights)
    print(f"{options.file}: valid; {len(policy.targets)} targets, {len(policy.rules)} routes, hash {policy.version}")
    for target in policy.targets.values():
        for endpoint in target.endpoints or (target,):
            print(f"  {target.name}: {describe_call(endpoint, os.environ)}")
    for problem in credential_problems(policy.targets.values(), os.environ):
        print(f"{'note' if problem.is_minor else 'warning'}: {problem.text}", file=sys.stderr)
    for line in describe_locations(policy):
        print(f"  {line}")
    for warning in (*budget_problems(policy), *gate_problems(policy), *location_problems(policy)):
        print(f"warning: {warning}", file=sys.stderr)
    return SUCCESS


def _schema(_: argparse.Namespace) -> int:
    print(json.dumps(editor_schema(), indent=1))
    return SUCCESS


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an ISO 8601 time, such as 2026-07-01T12:00+00:00") from None


def _header(text: str) -> tuple[bytes, bytes]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"invalid header {text!r}; expected NAME=VALUE")
    return name.lower().encode(), value.encode()


def _explain(options: argparse.Namespace) -> int:
    settings = read_settings(
        os.environ, serve_command.with_policy({"policy": str(options.policy)} if options.policy else {})
    )
    policy = load(settings.policy, os.environ)
    wall_s = options.at.timestamp() if options.at else time.time()
    try:
        headers = unique_headers(options.header)
        key = _key(options.key, settings.keys_file)
        query = APIS[options.path].read(_read_bytes(options.request), headers, now_s=time.monotonic(), key=key)
        classification = open_classifier(policy.weights or FILE)(query)
        plan = plan_request(policy, query, classification, wall_s=wall_s, sample=0.0)
    except CannotStart:
        raise
    except GatewayError as error:
        print(f"{options.request}: {error.status} {error.code}: {error.message}")
        return FAILURE
    print(f"task     {classification.task} ({classification.confidence:.2f}, by {classification.evidence})")
    print(f"route    {plan.route}{' (private)' if plan.private else ''}")
    print(f"targets  {', '.join(candidate.target.name for candidate in plan.candidates)}")
    print(f"needs    {', '.join(sorted(query.needs))}")
    print(f"validate {f'response, buffer {plan.checks.buffer}' if plan.checks else 'nothing'}")
    print(f"policy   {plan.policy}")
    for line in (*_route_details(plan), *_verdicts(plan, query)):
        print(line)
    return SUCCESS


def _key(name: str | None, keys_file: Path | None) -> Key | None:
    """The key with its restrictions, if there is a keys file. Raises ConfigurationError."""
    if name is None or keys_file is None:
        return None if name is None else Key(name=name)
    known = load_keys(keys_file).named(name)
    if known is None:
        raise ConfigurationError(f"keys file {keys_file}: no key is named {name!r}")
    return known[0]


def _route_details(plan: Plan) -> Iterator[str]:
    """The limits to locations, and the route's SLO, deadline, hedge and shadow, where set."""
    first = plan.candidates[0]
    if plan.locations is not None:
        yield f"limited  to {listed(plan.locations)}"
    if first.slo is not None:
        objectives = {"response": first.slo.p95_ms, "first token": first.slo.first_token_p95_ms}
        p95s = ", ".join(f"{what} p95 {ms:g} ms" for what, ms in objectives.items() if ms < inf)
        yield f"slo      {first.target.name}: {p95s}"
    if plan.deadline_ms is not None:
        per_attempt = f", {plan.attempt_ms:g} ms per attempt" if plan.attempt_ms is not None else ""
        yield f"deadline {plan.deadline_ms:g} ms{per_attempt}"
    if first.hedge is not None:
        after = "its p95" if first.hedge.after_ms is None else f"{first.hedge.after_ms:g} ms"
        yield f"hedge    after {after}, at most {first.hedge.max_share:.0%} of requests"
    if plan.shadow is not None:
        yield f"shadow   {plan.shadow.candidate.target.name}, {plan.shadow.share:.0%} of requests"


def _verdicts(plan: Plan, query: Query) -> Iterator[str]:
    """Whether each target is eligible by the policy alone; load, health and residency are unknown without a running
    gateway."""
    for position, candidate in enumerate(plan.candidates, 1):
        target, verdict = candidate.target, admit(candidate, query, Health())
        state = "eligible" if verdict.admitted else f"skipped: {verdict.reason}, {verdict.detail}"
        if verdict.admitted and (ignored := ignored_by(target, query)):
            state = f"{state}, ignores {', '.join(ignored)}"
        reported = " (capabilities reported by the worker)" if target.capabilities is None else ""
        yield f"{'try ' + str(position):<9}{target.name} ({target.location or 'no location'}): {state}{reported}"


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise CannotStart(f"{path}: {fault.strerror}") from fault
