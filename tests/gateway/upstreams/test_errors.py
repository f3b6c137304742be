"""What a refusal means."""

import aiohttp
import orjson
import pytest

from gateway.errors import (
    AttemptFailed,
    DeadlineExceeded,
    NotResident,
    Overloaded,
    Refused,
    Unsupported,
    UpstreamError,
)
from gateway.upstreams.errors import from_response, translated


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (429, "overloaded", Overloaded),
        (429, "rate_limit_exceeded", Overloaded),
        (503, None, Overloaded),
        (503, "overloaded", Overloaded),
        (503, "not_resident", NotResident),
        (503, "draining", NotResident),
        (504, "deadline_exceeded", DeadlineExceeded),
        (504, None, DeadlineExceeded),
        (500, "step_failed", UpstreamError),
        (502, None, UpstreamError),
        (400, "unsupported_parameter", Unsupported),
        (400, "unsupported_schema", Unsupported),
        (400, "context_length_exceeded", Unsupported),
        (400, "invalid_value", Refused),
        (413, None, Refused),
        (422, None, Refused),
        (401, "invalid_api_key", UpstreamError),
        (404, "model_not_found", UpstreamError),
        (499, "cancelled", UpstreamError),
        (302, None, UpstreamError),
    ],
)
def test_status_and_code_become_one_of_ours(status: int, code: str | None, kind: type[AttemptFailed]) -> None:
    fault = from_response(status, {}, orjson.dumps({"error": {"message": "theirs", "code": code}}))
    assert type(fault) is kind
    assert str(status) in fault.detail


def test_words_for_the_client_are_kept_and_bounded() -> None:
    error = {"message": "x" * 2000, "param": "messages", "code": "invalid_value"}
    fault = from_response(400, {}, orjson.dumps({"error": error}))
    assert (len(fault.message), fault.param, fault.code, fault.status) == (500, "messages", "invalid_value", 400)


def test_words_about_our_credentials_are_not_passed_on() -> None:
    fault = from_response(401, {}, b'{"error": {"message": "Incorrect API key sk-secret"}}')
    assert "sk-secret" not in fault.message + fault.detail


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": null}', b'{"error": "plain"}', b'{"detail": []}'])
def test_a_refusal_without_openais_shape_is_understood_by_its_status(body: bytes) -> None:
    assert isinstance(from_response(400, {}, body), Refused)
    assert isinstance(from_response(500, {}, body), UpstreamError)


@pytest.mark.parametrize(
    ("value", "seconds"), [("3", 3.0), ("0.5", 0.5), ("soon", None), ("-1", None), ("inf", None), ("", None)]
)
def test_the_time_to_come_back_is_read_if_it_makes_sense(value: str, seconds: float | None) -> None:
    assert from_response(429, {"retry-after": value}, b"").retry_after_s == seconds


@pytest.mark.parametrize(
    "foreign",
    [aiohttp.ClientPayloadError("x"), aiohttp.ServerDisconnectedError(), ConnectionResetError(), TimeoutError()],
)
def test_foreign_errors_are_translated_without_their_words(foreign: Exception) -> None:
    with pytest.raises(UpstreamError) as told, translated():
        raise foreign
    assert told.value.__cause__ is foreign
