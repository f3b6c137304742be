"""The gate of a route, as written, and the targets for which it cannot hold."""

from collections.abc import Callable

import pytest

from gateway.enums import OnLowConfidence
from gateway.errors import PolicyError
from gateway.policy_files.gates import gate_problems
from gateway.policy_files.load import parse
from gateway.routing.gates import Gate
from gateway.routing.policy import Policy

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
