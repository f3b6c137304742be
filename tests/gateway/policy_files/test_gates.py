"""The gate of a route, as written, and the targets for which it cannot hold."""

from collections.abc import Callable

import pytest

from gateway.enums import OnLowConfidence
from gateway.errors import PolicyError
from gateway.policy_files.gates import gate_problems
from gateway.policy_files.load import parse
from gateway.routing.gates import Gate
from gateway.routing.policy import Policy
from tests.gateway.policy_files.conftest import VALID

PolicyWith = Callable[..., Policy]
Refused = Callable[..., PolicyError]
MINIMUM = "    min_confidence: 0.8\n"


def test_a_minimum_by_target_is_read_as_written(policy_with: PolicyWith) -> None:
    gate = policy_with(MINIMUM, "    min_confidence: {fast: 0.7, quality: 0.4}\n").rules[0].route.gate
    assert gate == Gate(at_targets=(("fast", 0.7), ("quality", 0.4)))


def test_the_surest_answer_is_served_only_if_the_route_says_so(policy_with: PolicyWith) -> None:
    assert not policy_with().rules[0].open.serves_surest
    rule = policy_with(MINIMUM, MINIMUM + "    low_confidence: serve_surest\n").rules[0]
    assert rule.open.serves_surest
    assert rule.route.gate == Gate(minimum=0.8, otherwise=OnLowConfidence.SERVE_SUREST)


TARGET = "    model: diffusion\n"
OWN = TARGET + "    min_confidence: 0.7\n"


@pytest.mark.parametrize(("more", "is_served"), [("", False), ("    low_confidence: serve_surest\n", True)])
def test_a_target_has_a_minimum_of_its_own_and_says_what_is_served_below_it(
    policy_with: PolicyWith, more: str, is_served: bool
) -> None:
    policy = policy_with(TARGET, OWN + more)
    direct, routed = policy.direct["fast"].open, policy.rules[0].open
    assert (direct.candidates[0].min_confidence, direct.serves_surest) == (0.7, is_served)
    assert (routed.candidates[0].min_confidence, routed.serves_surest) == (0.8, False)


def test_a_route_may_serve_the_surest_answer_below_the_minimum_of_its_targets() -> None:
    target = "{kind: worker, url: 'http://a', model: m, location: in_cluster, min_confidence: 0.8}"
    route = "{name: all, use: fast, low_confidence: serve_surest}"
    plan = parse(f"version: 1\ntargets: {{fast: {target}}}\nroutes: [{route}]\n", {}).rules[0].open
    assert (plan.candidates[0].min_confidence, plan.serves_surest) == (0.8, True)


def test_a_route_with_a_gated_target_must_buffer_what_it_validates(policy_with: PolicyWith) -> None:
    """As with a minimum of the route's own: the confidence comes at the end of a response."""
    text = "    min_confidence: 0.8\n    deadline_ms: 3000\n    validate: {schema: request, buffer: full}\n"
    unbuffered = "    deadline_ms: 3000\n    validate: {schema: request, buffer: first_bytes}\n"
    assert policy_with(text, unbuffered).rules[0].open.checks is not None
    with pytest.raises(PolicyError, match="requires buffer: full"):
        parse(VALID.replace(text, unbuffered).replace(TARGET, OWN), {})


@pytest.mark.parametrize(
    ("new", "cause"),
    [
        (TARGET + "    min_confidence: 80\n", "min_confidence: must be between 0 and 1, got 80"),
        (TARGET + "    min_confidence: {fast: 0.8}\n", "min_confidence: expected a number"),
        (TARGET + "    low_confidence: error\n", "low_confidence: requires `min_confidence`"),
        (OWN + "    low_confidence: serve\n", "low_confidence: "),
    ],
)
def test_a_gate_of_a_target_that_could_not_work_is_refused(refused: Refused, new: str, cause: str) -> None:
    assert f"targets.fast.{cause}" in str(refused(TARGET, new))


@pytest.mark.parametrize(
    ("new", "cause"),
    [
        ("    min_confidence: {fest: 0.8}\n", "min_confidence.fest: not a target of this route: 'fest'"),
        ("    min_confidence: {fast: 2}\n", "min_confidence.fast: must be between 0 and 1, got 2"),
        ("    low_confidence: error\n", "low_confidence: requires `min_confidence`"),
        (MINIMUM + "    low_confidence: serve\n", "low_confidence: "),
    ],
)
def test_a_gate_that_could_not_work_is_refused(refused: Refused, new: str, cause: str) -> None:
    assert f"routes[0].{cause}" in str(refused(MINIMUM, new))


@pytest.mark.parametrize(
    ("target", "is_named"),
    [
        ("kind: worker", True),
        ("kind: openai, engine: vllm_diffusion", True),
        ("kind: openai, engine: sglang_diffusion", True),
        ("kind: openai, engine: vllm", False),
    ],
)
@pytest.mark.parametrize("first", ["use: fast", "use: {fast: 90, other: 10}"])
def test_a_route_without_a_gate_that_tries_a_diffusion_engine_first_is_named(
    first: str, target: str, is_named: bool
) -> None:
    other = "kind: openai, engine: vllm, url: 'http://b', model: m, location: external"
    targets = f"{{fast: {{{target}, url: 'http://a', model: m, location: external}}, other: {{{other}}}}}"
    policy = parse(f"version: 1\ntargets: {targets}\nroutes: [{{name: all, {first}}}]\n", {})
    named = ["route 'all' has no `min_confidence`: doubtful answers of target 'fast' are served"]
    assert list(gate_problems(policy)) == (named if is_named else [])


@pytest.mark.parametrize(
    ("gate", "named"),
    [
        ("", ["has no `min_confidence`: doubtful answers of target 'fast' are served"]),
        ("min_confidence: {other: 0.8}", ["has no `min_confidence` for target 'fast': doubtful answers of"]),
        ("min_confidence: {fast: 0.8}", []),
        ("min_confidence: 0.8", []),
    ],
)
def test_a_route_that_falls_back_to_a_diffusion_engine_without_a_gate_is_named(gate: str, named: list[str]) -> None:
    other = "{kind: openai, engine: vllm, url: 'http://b', model: m, location: external}"
    fast = "{kind: worker, url: 'http://a', model: m, location: in_cluster}"
    route = f"{{name: all, use: other, fall_back: [fast], {gate}}}"
    policy = parse(f"version: 1\ntargets: {{fast: {fast}, other: {other}}}\nroutes: [{route}]\n", {})
    problems = list(gate_problems(policy))
    assert [text in problem for text, problem in zip(named, problems, strict=True)] == [True] * len(named)


def test_a_gate_of_a_target_whose_confidence_is_never_known_is_named_once() -> None:
    fast = "{kind: openai, engine: sglang_diffusion, url: 'http://a', model: m, location: eu, min_confidence: 0.8}"
    policy = parse(f"version: 1\ntargets: {{fast: {fast}}}\nroutes: [{{name: all, use: fast}}]\n", {})
    [problem] = gate_problems(policy)
    assert problem.startswith("target 'fast' has no gate: it reports neither a confidence nor log-probabilities")


def test_a_target_whose_confidence_is_never_known_is_named(policy_with: PolicyWith) -> None:
    worker = '    kind: worker\n    url: "http://127.0.0.1:8001"\n    model: diffusion\n'
    assert list(gate_problems(policy_with())) == []
    served = {
        engine: list(gate_problems(policy_with(worker, worker.replace("worker", f"openai\n    engine: {engine}"))))
        for engine in ("vllm_diffusion", "sglang_diffusion")
    }
    assert served["vllm_diffusion"] == []
    assert len(served["sglang_diffusion"]) == 1
    assert "route 'edits' has no gate at target 'fast'" in served["sglang_diffusion"][0]
    decides = list(
        gate_problems(policy_with(worker, worker.replace("worker", "openai\n    capabilities: [decisions]")))
    )
    assert decides[0].endswith("`min_confidence` has no effect there except on decisions")
