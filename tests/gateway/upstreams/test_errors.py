"""Mapping of error responses and HTTP client exceptions."""

import json
from math import inf

import aiohttp
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    AttemptFailed,
    ContextLengthExceeded,
    DeadlineExceeded,
    InsufficientQuota,
    NotResident,
    Overloaded,
    Refused,
    TargetMisconfigured,
    TargetRateLimited,
    Unsupported,
    UpstreamAuth,
    UpstreamError,
)
from gateway.upstreams.errors import from_response, read_retry_after, translate_errors
from gateway.upstreams.http_client.client import CannotConnect, HungUp, InvalidResponse, ResponseTimeout


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (429, "overloaded", Overloaded),
        (429, "rate_limit_exceeded", TargetRateLimited),
        (429, None, TargetRateLimited),
        (429, "insufficient_quota", InsufficientQuota),
        (402, None, InsufficientQuota),
        (503, None, Overloaded),
        (503, "overloaded", Overloaded),
        (503, "not_resident", NotResident),
        (503, "draining", NotResident),
        (504, "deadline_exceeded", DeadlineExceeded),
        (504, None, UpstreamError),
        (408, None, UpstreamError),
        (500, "step_failed", UpstreamError),
        (502, None, UpstreamError),
        (400, "unsupported_parameter", Unsupported),
        (400, "unsupported_schema", Unsupported),
        (400, "context_length_exceeded", ContextLengthExceeded),
        (500, "context_length_exceeded", ContextLengthExceeded),
        (400, "answer_does_not_fit", Unsupported),
        (400, "invalid_api_key", UpstreamAuth),
        (400, "invalid_value", Refused),
        (413, None, Refused),
        (422, None, Refused),
        (401, "invalid_api_key", UpstreamAuth),
        (403, None, UpstreamAuth),
        (404, "model_not_found", TargetMisconfigured),
        (405, None, TargetMisconfigured),
        (501, None, TargetMisconfigured),
        (499, "cancelled", UpstreamError),
        (302, None, TargetMisconfigured),
        (304, None, UpstreamError),
        (400, "cancelled", UpstreamError),
    ],
)
def test_status_and_code_map_to_an_error(status: int, code: str | None, kind: type[AttemptFailed]) -> None:
    fault = from_response(status, {}, orjson.dumps({"error": {"message": "theirs", "code": code}}))
    assert type(fault) is kind
    assert str(status) in fault.detail


def test_messages_about_the_request_are_kept_and_truncated() -> None:
    error = {"message": "x" * 2000, "param": "messages", "code": "invalid_value"}
    fault = from_response(400, {}, orjson.dumps({"error": error}))
    assert (len(fault.message), fault.param, fault.code, fault.status) == (500, "messages", "invalid_value", 400)


def test_messages_about_the_gateway_s_credentials_are_dropped() -> None:
    fault = from_response(401, {}, b'{"error": {"message": "Incorrect API key sk-secret"}}')
    assert "sk-secret" not in fault.message + fault.detail


@pytest.mark.parametrize(
    "error",
    [
        {"code": "invalid_api_key"},
        {"type": "authentication_error"},
        {"code": 400, "status": "INVALID_ARGUMENT", "details": [{"@type": "x"}, {"reason": "API_KEY_INVALID"}]},
    ],
)
@pytest.mark.parametrize("form", ["{}", "[{}]"])
def test_a_rejected_key_is_recognised_whatever_the_status(error: dict[str, object], form: str) -> None:
    body = json.dumps({"error": {"message": "bad sk-secret", **error}})
    fault = from_response(400, {}, form.replace("{}", body).encode())
    assert type(fault) is UpstreamAuth
    assert "sk-secret" not in fault.message + fault.detail


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": null}', b'{"error": "plain"}', b'{"detail": []}'])
def test_an_error_without_openai_s_format_is_mapped_by_status(body: bytes) -> None:
    assert isinstance(from_response(400, {}, body), Refused)
    assert isinstance(from_response(500, {}, body), UpstreamError)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *[("3", 3.0), ("0.5", 0.5), (" 3 ", 3.0), ("0", 0.0), ("9" * 400, inf)],
        *[("soon", None), ("-1", None), ("inf", None), ("nan", None), ("", None)],
        ("Thu, 32 Foo 2026", None),
    ],
)
def test_retry_after_is_read_if_valid(value: str, seconds: float | None) -> None:
    assert from_response(429, {"retry-after": value}, b"").retry_after_s == seconds


@pytest.mark.parametrize(
    ("sent", "until", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:50:37 GMT", 60),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:50:37 GMT", 60),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun Nov  6 08:50:37 1994", 60),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 10:50:37 +0200", 60),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:00 GMT", 0),
        ("", "Sun, 06 Nov 1994 08:50:37 GMT", 100),
        ("broken", "Sun, 06 Nov 1994 08:50:37 GMT", 100),
    ],
)
def test_a_date_counts_from_the_date_of_the_response(sent: str, until: str, seconds: float) -> None:
    """The clocks of two machines may differ; the gateway's is used only if the response has none."""
    now_s = 784111837.0 - 100
    assert read_retry_after({"date": sent, "retry-after": until}, now_s=now_s) == seconds


def test_milliseconds_outweigh_seconds_unless_they_are_invalid() -> None:
    assert read_retry_after({"retry-after-ms": "1500", "retry-after": "9"}, now_s=0) == 1.5
    for invalid in ("soon", "-5", "nan"):
        assert read_retry_after({"retry-after-ms": invalid, "retry-after": "9"}, now_s=0) == 9
    assert read_retry_after({}, now_s=0) is None


@pytest.mark.parametrize(
    "foreign",
    [
        *(aiohttp.ClientPayloadError("x"), aiohttp.ServerDisconnectedError(), ConnectionResetError(), TimeoutError()),
        *(CannotConnect("x"), HungUp("x"), InvalidResponse("x"), ResponseTimeout("x"), ValueError("x")),
    ],
)
def test_http_client_exceptions_are_translated_without_their_message(foreign: Exception) -> None:
    with pytest.raises(UpstreamError) as raised, translate_errors():
        raise foreign
    assert raised.value.__cause__ is foreign
    assert "x" not in raised.value.detail.split()


def test_a_target_that_was_not_reached_differs_from_one_that_hung_up() -> None:
    details = []
    for foreign in (CannotConnect(), HungUp(), InvalidResponse(), ResponseTimeout()):
        with pytest.raises(UpstreamError) as raised, translate_errors():
            raise foreign
        details.append(raised.value.detail)
    assert details == ["connection refused", "HungUp", "InvalidResponse", "response timeout"]


OURS = b'{"error": {"message": "too many cooks", "code": "invalid_value", "param": "tools"}}'
FORMS: dict[str, tuple[bytes, str, str | None]] = {
    "byte-order-mark": (b"\xef\xbb\xbf" + OURS, "too many cooks", "tools"),
    "utf-16": (OURS.decode().encode("utf-16"), "too many cooks", "tools"),
    "list": (b"[" + OURS + b"]", "too many cooks", "tools"),
    "errors": (b'{"success": false, "errors": [{"code": 7, "message": "too many cooks"}]}', "too many cooks", None),
    "detail": (b'{"detail": "too many cooks"}', "too many cooks", None),
    "detail-object": (b'{"detail": {"message": "too many cooks", "param": "tools"}}', "too many cooks", "tools"),
    "pydantic": (
        b'{"detail": [{"loc": ["body", "tools", 0], "msg": "too many cooks"}, {"loc": ["body", "n"], "msg": "x"}]}',
        "tools.0: too many cooks; n: x",
        "tools.0",
    ),
    "pydantic-in-a-message": (
        b'{"object": "error", "message": {"detail": [{"loc": ["body", "tools"], "msg": "too many cooks"}]}}',
        "tools: too many cooks",
        "tools",
    ),
    "msg": (b'{"code": "InvalidParameter", "msg": "too many cooks"}', "too many cooks", None),
    "text": (b" too many cooks\n", "too many cooks", None),
    "object-itself": (b'{"object": "error", "message": "too many cooks", "param": null}', "too many cooks", None),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_words_of_an_error_are_read_in_every_form(form: str) -> None:
    body, message, param = FORMS[form]
    fault = from_response(400, {}, body)
    assert (type(fault), fault.message, fault.param) == (Refused, message, param)


@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"\x00\x01", b'{"error": {"mess', b"[]", b"7", b'"x"'])
def test_anything_else_is_an_error_without_words(body: bytes) -> None:
    assert from_response(400, {}, body).message == "The target rejected the request with HTTP status 400."


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from("error errors detail details message code type param loc msg n_ctx error_type".split()),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(
    body=st.binary(max_size=20) | JSON.map(lambda value: json.dumps(value).encode()),
    status=st.sampled_from([400, 401, 404, 422, 429, 500, 503]),
)
def test_a_body_of_any_shape_is_an_error_of_the_gateway(body: bytes, status: int) -> None:
    assert isinstance(from_response(status, {}, body), AttemptFailed)
