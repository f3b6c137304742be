"""Error bodies: status, type and code of every worker error."""

import pytest

from diffusion_worker import errors
from diffusion_worker.web import error_body
from diffusion_worker.web.error_body import problem_of


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (errors.OutOfRange("m"), 400, "invalid_request_error", "invalid_value"),
        (errors.PromptTooLong("m"), 400, "invalid_request_error", "context_length_exceeded"),
        (error_body.Unsupported("m"), 400, "invalid_request_error", "unsupported_parameter"),
        (error_body.InvalidKey("m"), 401, "invalid_request_error", "invalid_api_key"),
        (error_body.ModelNotFound("m"), 404, "invalid_request_error", "model_not_found"),
        (error_body.BodyTooLarge("m"), 413, "invalid_request_error", "request_too_large"),
        (errors.OverCapacity("m"), 429, "rate_limit_error", "overloaded"),
        (errors.NotResident("m"), 503, "server_error", "not_resident"),
        (errors.Draining("m"), 503, "server_error", "draining"),
        (errors.NotFinite("m"), 500, "server_error", "not_finite"),
        (errors.DeadlineExceeded("m"), 504, "server_error", "deadline_exceeded"),
    ],
)
def test_errors_have_openais_status_type_and_code(error: errors.WorkerError, status: int, kind: str, code: str) -> None:
    problem = problem_of(error)
    assert problem.status == status
    assert problem.body == {"error": {"message": "m", "type": kind, "param": None, "code": code}}


@pytest.mark.parametrize(("wait_s", "seconds"), [(None, b"1"), (0.0, b"1"), (0.2, b"1"), (2.1, b"3"), (7.0, b"7")])
def test_refusals_have_retry_after_in_whole_seconds(wait_s: float | None, seconds: bytes) -> None:
    """At least 1: an immediate retry would only add load."""
    for error in (errors.OverCapacity("m", retry_after_s=wait_s), errors.NotResident("m", retry_after_s=wait_s)):
        assert dict(problem_of(error).headers) == {b"x-should-retry": b"true", b"retry-after": seconds}


def test_other_errors_have_no_retry_after() -> None:
    assert dict(problem_of(errors.InvalidRequest("m", retry_after_s=3.0)).headers) == {b"x-should-retry": b"false"}


@pytest.mark.parametrize(
    ("error", "should_retry"),
    [
        (errors.PromptTooLong("m"), b"false"),
        (error_body.InvalidKey("m"), b"false"),
        (errors.InvalidOutput("m"), b"false"),
        (errors.StepFailed("m"), b"true"),
        (errors.DeadlineExceeded("m"), b"true"),
        (errors.Draining("m"), b"true"),
    ],
)
def test_clients_are_told_whether_the_same_request_may_succeed(error: errors.WorkerError, should_retry: bytes) -> None:
    assert dict(problem_of(error).headers)[b"x-should-retry"] == should_retry


def test_a_missing_key_returns_www_authenticate() -> None:
    """As HTTP requires with 401."""
    assert (b"www-authenticate", b"Bearer") in problem_of(error_body.InvalidKey("m")).headers
