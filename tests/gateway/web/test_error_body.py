"""Errors on the wire are what the table of errors says."""

from collections.abc import Iterator

import orjson
import pytest

from gateway.errors import AttemptFailed, CannotStart, Draining, GatewayError, RateLimitExceeded
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
