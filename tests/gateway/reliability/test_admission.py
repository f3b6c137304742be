"""Admission checks: capabilities, residency, deadline, shared failures, healthy fallback."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from gateway.enums import SHARED_REASONS, BreakerState, Capability, Reason, Residency
from gateway.policy_types import Slo
from gateway.reliability.admission import (
    admit,
    check_predicted_wait,
    check_shared_failure,
    has_healthy_fallback,
    is_ready_for,
    needs_fallback,
)
from gateway.routing.engine_profiles import ENGINES
from gateway.types import Candidate, Capabilities, Health, Query, RequestParameters, Status, Target

MakeQuery = Callable[..., Query]
MakeTarget = Callable[..., Target]
CHAT_ONLY = Capabilities(supported=frozenset({Capability.CHAT}))
NEEDS_SCHEMA = frozenset({Capability.CHAT, Capability.JSON_SCHEMA})


@pytest.fixture(name="candidate")
def make_candidate(target: MakeTarget) -> Callable[..., Candidate]:
    """A candidate whose target has the given name and fields."""
    return lambda name="fast", **fields: Candidate(route="r", target=target(name, **fields))


def health(**fields: object) -> Health:
    return Health(status=Status(**fields))  # type: ignore[arg-type]


def test_a_target_that_does_not_support_the_request_is_skipped_with_the_missing_capability(
    candidate: Callable[..., Candidate], query: MakeQuery
) -> None:
    verdict = admit(candidate(capabilities=CHAT_ONLY), query(needs=NEEDS_SCHEMA), Health())
    assert (verdict.reason, verdict.detail) == (Reason.UNSUPPORTED, "lacks json_schema")


def test_names_of_a_client_s_fields_do_not_fill_errors_and_logs(
    candidate: Callable[..., Candidate], query: MakeQuery
) -> None:
    unknown = frozenset({f"{number:02d}{'x' * 10_000}" for number in range(20)})
    verdict = admit(
        candidate(capabilities=CHAT_ONLY), query(parameters=RequestParameters(names=unknown, unknown=unknown)), Health()
    )
    assert len(verdict.detail) < 1000
    assert verdict.detail.startswith("lacks 00xx")
    assert verdict.detail.endswith(" and 12 more")
    assert len(verdict.param or "") == 64


def test_discovered_capabilities_count_where_the_policy_states_none(
    candidate: Callable[..., Candidate], query: MakeQuery
) -> None:
    assert admit(candidate(), query(needs=NEEDS_SCHEMA), health(capabilities=CHAT_ONLY)).reason is Reason.UNSUPPORTED
    assert admit(candidate(), query(needs=NEEDS_SCHEMA), Health()).admitted


@pytest.mark.parametrize(
    ("residency", "reason"),
    [
        (Residency.READY, None),
        (Residency.DEGRADED, None),
        (Residency.UNKNOWN, None),
        (Residency.UNREACHABLE, Reason.UPSTREAM_ERROR),
        (Residency.COLD, Reason.NOT_RESIDENT),
        (Residency.LOADING, Reason.NOT_RESIDENT),
        (Residency.EVICTING, Reason.NOT_RESIDENT),
        (Residency.FAILED, Reason.NOT_RESIDENT),
        (Residency.DRAINING, Reason.NOT_RESIDENT),
    ],
)
def test_a_target_without_its_weights_is_skipped_and_an_unknown_one_is_tried(
    candidate: Callable[..., Candidate], query: MakeQuery, residency: Residency, reason: Reason | None
) -> None:
    assert admit(candidate(), query(), health(residency=residency)).reason is reason


@pytest.mark.parametrize(
    ("left_ms", "wait_ms", "admitted"),
    [(None, 9e9, True), (100, None, True), (100, 99, True), (100, 100, False), (0, None, False), (-5, None, False)],
)
def test_a_target_that_would_answer_too_late_is_skipped(
    candidate: Callable[..., Candidate],
    query: MakeQuery,
    left_ms: float | None,
    wait_ms: float | None,
    admitted: bool,
) -> None:
    verdict = admit(candidate(), query(), health(predicted_wait_ms=wait_ms), left_ms=left_ms)
    assert verdict.admitted is admitted
    assert admitted or verdict.reason is Reason.DEADLINE


@pytest.mark.parametrize(
    ("slo", "wait_ms", "admitted"),
    [
        (None, 9e9, True),
        (Slo(p95_ms=400), None, True),
        (Slo(p95_ms=400), 400, True),
        (Slo(p95_ms=400), 401, False),
        (Slo(p95_ms=400, first_token_p95_ms=100), 150, False),
        (Slo(first_token_p95_ms=100), 100, True),
    ],
)
def test_a_target_with_a_predicted_wait_over_the_objective_is_skipped(
    candidate: Callable[..., Candidate], slo: Slo | None, wait_ms: float | None, admitted: bool
) -> None:
    verdict = check_predicted_wait(replace(candidate(), slo=slo), health(predicted_wait_ms=wait_ms))
    assert verdict.admitted is admitted
    assert admitted or verdict.reason is Reason.OVERLOADED


def test_a_server_that_failed_under_one_name_is_not_called_under_another(candidate: Callable[..., Candidate]) -> None:
    failed = {"http://worker": ("fast", Reason.UPSTREAM_ERROR)}
    verdict = check_shared_failure(candidate("careful", url="http://worker"), failed)
    assert (verdict.reason, verdict.detail) == (Reason.UPSTREAM_ERROR, "same server as fast")
    assert check_shared_failure(candidate("quality"), failed).admitted


def test_a_retry_is_not_excluded_by_the_failure_that_it_follows(candidate: Callable[..., Candidate]) -> None:
    assert check_shared_failure(
        candidate("fast", url="http://worker"), {"http://worker": ("fast", Reason.UPSTREAM_ERROR)}
    ).admitted


def test_failures_of_one_target_alone_are_not_shared_by_its_server() -> None:
    assert {*SHARED_REASONS} == {
        Reason.UPSTREAM_ERROR,
        Reason.OVERLOADED,
        Reason.NOT_RESIDENT,
        Reason.P95_BREACH,
        Reason.CIRCUIT_OPEN,
    }


@pytest.mark.parametrize(
    ("later", "healthy_fallback"),
    [
        (Health(), True),
        (Health(within_budget=False), False),
        (Health(breaker=BreakerState.OPEN), False),
        (Health(breaker=BreakerState.HALF_OPEN), True),
        (Health(status=Status(residency=Residency.COLD)), False),
        (Health(status=Status(capabilities=CHAT_ONLY)), False),
    ],
)
def test_a_healthy_fallback_is_a_later_lane_that_can_serve_the_request_within_its_objective(
    candidate: Callable[..., Candidate], query: MakeQuery, later: Health, healthy_fallback: bool
) -> None:
    asked = query(needs=NEEDS_SCHEMA)
    assert has_healthy_fallback(candidate("fast"), [(candidate("quality"), later)], asked) is healthy_fallback


def test_the_same_server_is_no_healthy_fallback(candidate: Callable[..., Candidate], query: MakeQuery) -> None:
    fast, careful = candidate("fast", url="http://worker"), candidate("careful", url="http://worker")
    assert not has_healthy_fallback(fast, [(careful, Health())], query())
    assert not has_healthy_fallback(fast, [], query())


def test_the_engine_of_a_released_diffusion_model_takes_no_schema_seed_or_temperature() -> None:
    words = ENGINES["vllm_diffusion"].supported
    assert not words & {Capability.JSON_SCHEMA, Capability.SEED, Capability.TEMPERATURE}
    assert Capability.CHAT in words


@pytest.mark.parametrize("residency", Residency)
@pytest.mark.parametrize("wait_ms", [None, 5.0])
@pytest.mark.parametrize("left_ms", [None, 0.0, 3.0, 10.0])
@pytest.mark.parametrize("needs", [frozenset({Capability.CHAT}), NEEDS_SCHEMA])
def test_what_is_ready_is_admitted_and_needs_no_fallback(
    candidate: Callable[..., Candidate],
    query: MakeQuery,
    residency: Residency,
    wait_ms: float | None,
    left_ms: float | None,
    needs: frozenset[Capability],
) -> None:
    one = replace(candidate(capabilities=CHAT_ONLY), slo=Slo(p95_ms=100))
    asked, known = query(needs=needs), health(residency=residency, predicted_wait_ms=wait_ms)
    if is_ready_for(one, asked, known.status, left_ms=left_ms):
        assert admit(one, asked, known, left_ms=left_ms).admitted
        assert not needs_fallback(one, known)
    elif residency in (Residency.READY, Residency.UNKNOWN) and wait_ms is None:
        assert not admit(one, asked, known, left_ms=left_ms).admitted
