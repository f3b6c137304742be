"""The error of a request that nobody served: a total order of causes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.attempts.final_error import _CAUSES, TRANSIENT, Cause, Failure, final_error
from gateway.enums import Reason
from gateway.errors import (
    AttemptFailed,
    ContextLengthExceeded,
    DeadlineExceeded,
    InsufficientQuota,
    InvalidOutput,
    LowConfidence,
    NotResident,
    Overloaded,
    Refused,
    TargetMisconfigured,
    TargetRateLimited,
    Unsupported,
    UpstreamError,
)
from gateway.types import Verdict

OF_CALLS = {Reason.INVALID_OUTPUT, Reason.LOW_CONFIDENCE, Reason.REFUSED}  # never why a candidate is skipped
SKIPS = st.sampled_from(sorted(set(Reason) - OF_CALLS)).map(
    lambda reason: Failure(target="t", verdict=Verdict(reason=reason))
)
LIMITED = st.just(Failure(target="t", verdict=Verdict(reason=Reason.OVERLOADED, is_quota=True, retry_after_s=40.0)))
ERRORS: Any = st.one_of(
    st.sampled_from([Unsupported, UpstreamError, Overloaded, NotResident, InvalidOutput, LowConfidence])
    .map(lambda kind: kind("m")),
    st.sampled_from([400, 404, 413, 422]).map(lambda status: Refused("m", status=status)),
    st.builds(ContextLengthExceeded, st.just("m"), limit=st.none() | st.integers(1, 9)),
    st.builds(TargetRateLimited, st.just("m"), retry_after_s=st.none() | st.floats(1, 99)),
    st.sampled_from([InsufficientQuota, TargetMisconfigured]).map(lambda kind: kind("m")),
    st.just(DeadlineExceeded("m")),
)  # fmt: skip
CALLS = st.builds(lambda error, left: Failure(target="t", error=error, left_ms=left), ERRORS, st.sampled_from([0, 500]))
FAILURES = st.lists(SKIPS | LIMITED | CALLS, min_size=1, max_size=5)


def failed(error: AttemptFailed, **more: Any) -> Failure:
    return Failure(target="t", error=error, **more)


def skipped(reason: Reason, **more: Any) -> Failure:
    return Failure(target="t", verdict=Verdict(reason=reason, detail="why", **more))


def test_every_reason_has_a_cause() -> None:
    assert set(_CAUSES) == set(Reason)


@pytest.mark.parametrize("reason", sorted(set(Reason) - OF_CALLS))
def test_the_error_of_a_skipped_target_may_be_retried_exactly_if_its_cause_may_pass(reason: Reason) -> None:
    failure = skipped(reason)
    assert final_error([failure]).retryable == (failure.cause in TRANSIENT)


@given(FAILURES)
def test_an_outage_is_never_reported_as_an_invalid_request(failures: list[Failure]) -> None:
    error = final_error(failures)
    causes = {failure.cause for failure in failures}
    assert error.retryable == bool(causes & TRANSIENT)
    if causes & TRANSIENT:
        assert error.status in {429, 502, 503, 504}
    if 400 <= error.status < 500 and error.status != 429:
        assert causes <= {Cause.UNSUPPORTED, Cause.CONTEXT_LENGTH, Cause.REFUSED}


@given(FAILURES)
def test_429_is_reported_only_if_quota_is_the_greatest_cause_and_always_with_a_time(failures: list[Failure]) -> None:
    error = final_error(failures)
    greatest = max(failure.cause for failure in failures)
    if error.status == 429:
        assert greatest is Cause.QUOTA or error.code == "insufficient_quota"
    if greatest is Cause.QUOTA:
        assert (error.status, error.code) == (429, "rate_limit_exceeded")
        assert error.retry_after_s is not None


@given(FAILURES, st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_does_not_change_the_cause(failures: list[Failure], random: Any) -> None:
    other = failures[:]
    random.shuffle(other)
    codes = {final_error(each).code for each in (failures, other)}
    if max(failure.cause for failure in failures) not in (Cause.OUTPUT, Cause.ACCOUNT, Cause.UNAVAILABLE):
        assert len(codes) == 1 or Cause.FAULT in {failure.cause for failure in failures}  # these have several codes
    assert len({final_error(each).retryable for each in (failures, other)}) == 1


@given(FAILURES, SKIPS | LIMITED | CALLS)
def test_one_more_failure_never_turns_a_cause_that_may_pass_into_a_lasting_one(
    failures: list[Failure], more: Failure
) -> None:
    assert final_error([*failures, more]).retryable >= final_error(failures).retryable


@given(FAILURES)
def test_a_private_request_is_told_of_no_other_targets(failures: list[Failure]) -> None:
    error, open_error = final_error(failures, private=True), final_error(failures)
    assert error.code == "no_private_target" or (error.status, error.code) == (open_error.status, open_error.code)
    assert error.retryable == open_error.retryable


@pytest.mark.parametrize(
    ("failures", "status", "code"),
    [
        ([failed(UpstreamError("down")), failed(Unsupported("no seed"))], 502, "upstream_error"),
        ([skipped(Reason.CIRCUIT_OPEN), skipped(Reason.UNSUPPORTED)], 503, "no_route"),
        ([skipped(Reason.NOT_RESIDENT), failed(Refused("no"))], 503, "not_resident"),
        ([skipped(Reason.UNSUPPORTED), failed(Refused("no", code="invalid_value"))], 400, "invalid_value"),
        ([failed(ContextLengthExceeded("long")), skipped(Reason.UNSUPPORTED)], 400, "context_length_exceeded"),
        ([failed(ContextLengthExceeded("long")), skipped(Reason.OVERLOADED)], 503, "overloaded"),
        ([failed(TargetRateLimited("slow")), skipped(Reason.UNSUPPORTED)], 429, "rate_limit_exceeded"),
        ([failed(TargetRateLimited("slow")), failed(UpstreamError("down"))], 502, "upstream_error"),
        ([failed(TargetRateLimited("slow")), failed(InsufficientQuota("empty"))], 429, "rate_limit_exceeded"),
        ([failed(InsufficientQuota("empty")), skipped(Reason.UNSUPPORTED)], 429, "insufficient_quota"),
        ([failed(TargetMisconfigured("404")), failed(TargetRateLimited("slow"))], 429, "rate_limit_exceeded"),
        ([failed(Refused("no")), failed(TargetMisconfigured("404"))], 502, "upstream_error"),
        ([failed(InvalidOutput("bad")), skipped(Reason.UNSUPPORTED)], 502, "invalid_output"),
        ([failed(UpstreamError("down")), skipped(Reason.DEADLINE)], 502, "upstream_error"),
        ([failed(UpstreamError("down")), failed(DeadlineExceeded("late"), left_ms=0.0)], 504, "deadline_exceeded"),
        ([failed(DeadlineExceeded("slow"), left_ms=500.0), skipped(Reason.OVERLOADED)], 504, "deadline_exceeded"),
        ([], 503, "no_route"),
    ],
)
def test_the_greatest_cause_is_reported(failures: list[Failure], status: int, code: str) -> None:
    error = final_error(failures)
    assert (error.status, error.code) == (status, code)


def test_the_words_are_those_of_the_target_with_the_longest_context() -> None:
    long, short = ContextLengthExceeded("8192", limit=8192), ContextLengthExceeded("4096", limit=4096)
    for failures in ([failed(long), failed(short)], [failed(short), failed(long)]):
        error = final_error([*failures, skipped(Reason.CONTEXT_LENGTH_EXCEEDED)])
        assert (error.message, error.param) == ("8192", "messages")


def test_the_shortest_wait_is_reported() -> None:
    limited = skipped(Reason.OVERLOADED, is_quota=True, retry_after_s=40.0)
    error = final_error([limited, failed(TargetRateLimited("slow", retry_after_s=70)), failed(TargetRateLimited("x"))])
    assert (error.status, error.retry_after_s) == (429, 40.0)


def test_a_target_at_a_server_that_failed_adds_no_cause_of_its_own() -> None:
    same = skipped(Reason.OVERLOADED, is_shared=True)
    assert final_error([failed(TargetRateLimited("slow")), same]).status == 429


def test_an_unsupported_field_is_named() -> None:
    assert final_error([skipped(Reason.UNSUPPORTED, param="logit_bias")]).param == "logit_bias"
