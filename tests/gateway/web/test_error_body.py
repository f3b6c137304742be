"""Errors on the wire are what the table of errors says."""

from collections.abc import Iterator

import orjson
import pytest

from gateway.errors import (
    AttemptFailed,
    CannotStart,
    ContextLengthExceeded,
    Draining,
    GatewayError,
    InvalidField,
    RateLimitExceeded,
    Refused,
)
from gateway.web.error_body import body_of, headers_of


def classes(kind: type[GatewayError]) -> Iterator[type[GatewayError]]:
    if not issubclass(kind, CannotStart):
        yield kind
        for below in kind.__subclasses__():
            yield from classes(below)


SERVED = [kind for kind in classes(GatewayError) if kind is not AttemptFailed]


@pytest.mark.parametrize("kind", SERVED, ids=lambda kind: kind.__name__)
def test_an_error_has_openai_s_shape_and_says_whether_to_try_again(kind: type[GatewayError]) -> None:
    error = kind("m")
    told = orjson.loads(body_of(error))["error"]
    assert told.keys() == {"message", "type", "param", "code"}
    assert (told["type"], told["code"]) == (kind.kind, error.code)
    assert dict(headers_of(error))[b"x-should-retry"] == (b"true" if kind.retryable else b"false")


@pytest.mark.parametrize("kind", SERVED, ids=lambda kind: kind.__name__)
def test_what_clients_retry_by_its_status_is_what_may_succeed(kind: type[GatewayError]) -> None:
    """OpenAI's clients retry 408, 409, 429 and 5xx unless told otherwise: nothing else may be worth a retry."""
    assert not kind.retryable or kind.status in {429, 500, 502, 503, 504}
    assert 400 <= kind.status < 600


@pytest.mark.parametrize(("wait_s", "seconds"), [(0.0, b"1"), (0.2, b"1"), (2.1, b"3"), (60, b"60")])
def test_a_wait_is_told_in_whole_seconds(wait_s: float, seconds: bytes) -> None:
    assert dict(headers_of(RateLimitExceeded("m", retry_after_s=wait_s)))[b"retry-after"] == seconds
    assert b"retry-after" not in dict(headers_of(Draining("m")))


MESSAGES = "/v1/messages"


def messages_error(error: GatewayError, path: str = MESSAGES) -> dict[str, str]:
    told = orjson.loads(body_of(error, path, "req_1"))
    assert (told.keys(), told["type"], told["request_id"]) == ({"type", "error", "request_id"}, "error", "req_1")
    assert told["error"].keys() == {"type", "message"}
    return dict(told["error"])


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (415, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_anthropic_s_type_follows_the_status(status: int, kind: str) -> None:
    assert messages_error(Refused("m", status=status)) == {"type": kind, "message": "m"}


@pytest.mark.parametrize("kind", SERVED, ids=lambda kind: kind.__name__)
def test_an_error_of_anthropic_s_api_has_its_shape(kind: type[GatewayError]) -> None:
    for path in (MESSAGES, f"{MESSAGES}/count_tokens"):
        assert "m" in messages_error(kind("m"), path)["message"]


def test_the_message_names_the_field_where_the_shape_has_no_place_for_it() -> None:
    assert messages_error(InvalidField("Too long.", param="system"))["message"] == "system: Too long."
    assert messages_error(InvalidField("'system' is too long.", param="system"))["message"] == "'system' is too long."


def test_a_prompt_that_is_too_long_is_told_in_the_words_at_which_agents_compact() -> None:
    known = ContextLengthExceeded("m", limit=100, needed=120)
    assert messages_error(known)["message"] == "prompt is too long: 120 tokens > 100 maximum"
    assert messages_error(ContextLengthExceeded("Too much."))["message"] == "prompt is too long: Too much."
