"""Compares two policies: checks both, explains a request by both, and replays recent decisions through both.

Runs as a process of its own, `python -m gateway.web.console.policy_process`, with a Comparison as JSON on its input and
a Result on its output: neither a long simulation nor a text that expands without end may stop the gateway. A mistake in
a policy is a part of the result.
"""

import os
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec

from gateway.classifier.weights import FILE, open_classifier
from gateway.errors import GatewayError, PolicyError
from gateway.policy_files.gates import gate_problems
from gateway.policy_files.limits import budget_problems
from gateway.policy_files.load import parse
from gateway.policy_files.locations import location_problems
from gateway.reliability.admission import admit
from gateway.routing.policy import Policy
from gateway.routing.route import plan_request
from gateway.simulation.latency_models import assumed, fit
from gateway.simulation.report import compare
from gateway.simulation.run import Scenario, simulate
from gateway.simulation.traffic import LoggedRequest, trace_of
from gateway.types import Health
from gateway.web.apis.table import APIS
from gateway.web.parse_request import unique_headers

MAX_MEMORY_BYTES: Final = 1 << 30
MAX_CPU_S: Final = 20
_ASSUMED_MS: Final = 1000.0


class Request(msgspec.Struct, frozen=True):
    """A request to explain: the path of its API, its headers, and its body as text."""

    path: str
    body: str
    headers: dict[str, str] = {}


class Comparison(msgspec.Struct, frozen=True):
    """`log`: records of decisions. `environment`: the variables that the policies may use."""

    running: str
    proposed: str
    environment: dict[str, str] = {}
    request: Request | None = None
    log: tuple[LoggedRequest, ...] = ()


def run(given: Comparison) -> dict[str, Any]:
    """Both policies by name: what was found, and the simulation if both are valid."""
    policies: dict[str, Policy] = {}
    result: dict[str, Any] = {}
    for name, text in (("running", given.running), ("proposed", given.proposed)):
        try:
            policies[name] = parse(text, given.environment, file=name)
            result[name] = _summary(policies[name])
            if given.request is not None:
                result[name]["explanation"] = _explain(policies[name], given.request)
        except PolicyError as error:
            cause = error.message.removeprefix(f"{name}:{error.line}:{error.column}: ").removeprefix(f"{name}: ")
            result[name] = {"error": {"message": cause, "line": error.line, "column": error.column}}
    if given.log and len(policies) == 2:
        result["simulation"] = _simulation(policies, given.log)
    return result


def _summary(policy: Policy) -> dict[str, Any]:
    return {
        "version": policy.version,
        "targets": len(policy.targets),
        "routes": [rule.route.name for rule in policy.rules],
        "warnings": [*budget_problems(policy), *gate_problems(policy), *location_problems(policy)],
    }


def _explain(policy: Policy, request: Request) -> dict[str, Any]:
    """By the policy alone: load and health of targets are those of the running gateway, which this process is not."""
    try:
        headers = unique_headers([(name.lower().encode(), value.encode()) for name, value in request.headers.items()])
        query = APIS[request.path].read(request.body.encode(), headers, now_s=0.0, key=None)
        found = open_classifier(policy.weights or FILE)(query)
        plan = plan_request(policy, query, found, wall_s=time.time(), sample=0.0)
    except GatewayError as error:
        return {"error": {"message": error.message, "code": error.code, "param": error.param}}
    return {
        "task": found.task,
        "confidence": round(found.confidence, 4),
        "evidence": found.evidence,
        "route": plan.route,
        "private": plan.private,
        "locations": None if plan.locations is None else sorted(plan.locations),
        "deadline_ms": plan.deadline_ms,
        "candidates": [
            {
                "target": each.target.name,
                "location": each.target.location,
                "reason": verdict.reason,
                "detail": verdict.detail,
            }
            for each in plan.candidates
            for verdict in (admit(each, query, Health()),)
        ],
    }


def _simulation(policies: Mapping[str, Policy], log: tuple[LoggedRequest, ...]) -> dict[str, Any]:
    """Targets that the log does not mention get an assumed latency, and are named."""
    models = fit(log)
    called = {target.name for policy in policies.values() for target in policy.endpoints}
    missing = sorted(called - models.keys())
    models |= {name: assumed(_ASSUMED_MS) for name in missing}
    scenario = Scenario(trace=trace_of(log), models=models)
    try:
        found = compare(*(simulate(policies[name], scenario) for name in ("running", "proposed")))
    except GatewayError as error:
        return {"error": {"message": error.message}}
    return {"assumed": missing, "assumed_ms": _ASSUMED_MS, **msgspec.to_builtins(found)}


def main() -> int:
    """Read, compare, write."""
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    os.nice(10)
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Comparison)
    sys.stdout.buffer.write(msgspec.json.encode(run(given)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
