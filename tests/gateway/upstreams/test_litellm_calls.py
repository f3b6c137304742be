"""Arguments of litellm calls and the mapping of its exceptions, without litellm."""

from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from gateway.enums import Kind
from gateway.errors import (
    ContextLengthExceeded,
    InsufficientQuota,
    Overloaded,
    Refused,
    TargetRateLimited,
    Unsupported,
    UpstreamAuth,
    UpstreamError,
)
from gateway.routing.engine_profiles import ENGINES
from gateway.types import Call, Query, Target, Usage
from gateway.upstreams.litellm_calls import _with_cost, arguments_for, fault_of

TARGET = Target(
    name="q",
    kind=Kind.LITELLM,
    url="litellm:gemini/some",
    model="gemini/some",
    location="external",
    capabilities=ENGINES["openai"],
)


def asked(body: dict[str, Any], *, key: str = "", left_ms: float | None = None) -> dict[str, Any]:
    document = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], **body}
    query = Query(request_id="r", model="auto", body=orjson.dumps(document), received_s=0)
    return arguments_for(Call(target=TARGET, query=query, left_ms=left_ms), key=key)


def test_only_known_parameters_are_forwarded() -> None:
    """Others could change where litellm sends the call. Its `metadata` is its own."""
    given = asked({"temperature": 0.1, "metadata": {"a": "b"}})
    assert given["temperature"] == 0.1
    assert given["num_retries"] == given["max_retries"] == 0
    assert not {"api_base", "metadata", "api_key"} & set(given)
    assert given["model"] == "gemini/some"
    for unknown in (
        {"api_base": "http://evil"},
        {"num_retries": 9},
        {"extra_headers": {"x": "y"}},
        {"mock_response": "x"},
    ):
        with pytest.raises(Unsupported) as refused:
            asked(unknown)
        assert {refused.value.param} == set(unknown)


def test_the_key_is_forwarded_and_calls_end_at_their_deadline() -> None:
    assert asked({}, key="k")["api_key"] == "k"
    assert asked({}, left_ms=1500)["timeout"] == 1.5
    assert asked({})["timeout"] == 1800


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://127.0.0.1/x"}},
        {"type": "image_url", "image_url": "https://example.com/x.png"},
        {"type": "image_url", "image_url": {}},
        {"type": "file", "file": {"file_id": "gs://bucket/x"}},
        {"type": "input_audio", "input_audio": {"data": "http://127.0.0.1/x"}},
    ],
)
def test_remote_content_is_refused(part: dict[str, Any]) -> None:
    with pytest.raises(Unsupported) as refused:
        asked({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, part]}]})
    assert refused.value.param == "messages"


def test_an_inline_image_is_forwarded() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert asked({"messages": [{"role": "user", "content": [part]}]})["messages"][0]["content"] == [part]


NO_QUOTA = 'litellm.RateLimitError: {"error": {"message": "told", "type": "insufficient_quota", "code": null}}'


def raised(name: str, status: int | None, message: str = "told", *, of: type[Exception] = Exception) -> Exception:
    """As litellm would: a class of this name, made while handling the provider's own."""
    kind = type(name, (of,), {"status_code": status, "message": message, "litellm_response_headers": {}})
    fault: Exception = kind(message)
    return fault


@pytest.mark.parametrize(
    ("fault", "meaning", "detail"),
    [
        (raised("RateLimitError", 429), TargetRateLimited, "status 429"),
        (raised("RateLimitError", 429, NO_QUOTA), InsufficientQuota, "status 429, no quota"),
        (raised("ServiceUnavailableError", 503), Overloaded, "status 503"),
        (raised("InternalServerError", 500), UpstreamError, "status 500"),
        (raised("AuthenticationError", 401), UpstreamAuth, "status 401"),
        (raised("BadRequestError", 400), Refused, "status 400"),
        (raised("UnsupportedParamsError", 400), Unsupported, "UnsupportedParamsError"),
        (raised("ContextWindowExceededError", 400), ContextLengthExceeded, "ContextWindowExceededError"),
        (raised("ContentPolicyViolationError", 400), Refused, "ContentPolicyViolationError"),
        (raised("Timeout", 408), UpstreamError, "Timeout"),
        (raised("APIConnectionError", 500), UpstreamError, "APIConnectionError"),
        (raised("Mine", 500, of=type("APITimeoutError", (Exception,), {})), UpstreamError, "Mine"),
        (KeyError("usage"), UpstreamError, "KeyError"),
    ],
)
def test_each_exception_maps_to_one_error(fault: Exception, meaning: type[Exception], detail: str) -> None:
    found = fault_of(fault)
    assert type(found) is meaning
    assert found.detail == detail


def test_the_provider_s_status_and_message_take_precedence() -> None:
    fault = raised("InternalServerError", 500, 'litellm.InternalServerError: X - {"error": {"message": "busy"}}')
    fault.__context__ = raised("AnthropicError", 529)
    fault.litellm_response_headers = {"retry-after": "3"}  # type: ignore[attr-defined]
    found = fault_of(fault)
    assert (type(found), found.retry_after_s) == (Overloaded, 3.0)
    refused = raised("BadRequestError", 400, 'litellm.BadRequestError: X - {"error": {"message": "too long"}}')
    assert fault_of(refused).message == "too long"
    assert fault_of(raised("BadRequestError", 400, "litellm.BadRequestError: plain")).message == "plain"


def test_messages_about_the_provider_s_key_are_dropped() -> None:
    assert "sk-" not in fault_of(raised("AuthenticationError", 401, "wrong key sk-123")).message


def test_a_negative_cost_is_ignored() -> None:
    """The provider reports more cached tokens than input tokens; a counter cannot decrease."""
    lying = SimpleNamespace(cost_per_token=lambda **_: (-1.0, 0.5))
    assert _with_cost(lying, "m", Usage(input_tokens=1), {}) == Usage(input_tokens=1)
