"""Translates requests into litellm calls, and litellm's responses and exceptions back.

Only parameters of the table in `gateway.parameters` are forwarded: others could change where litellm sends the call.
"""

import contextlib
import time
from collections.abc import AsyncGenerator, Container, Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from gateway.errors import AttemptFailed, ContextLengthExceeded, Refused, Unsupported, UpstreamError
from gateway.parameters import PARAMETERS
from gateway.policy_types import DEFAULT_TOTAL_MS
from gateway.routing.engine_profiles import LITELLM_FIELDS
from gateway.types import Call, Delta, Usage
from gateway.upstreams.context_length import ContextLimit, read_context_limit
from gateway.upstreams.errors import from_error_object, read_retry_after
from gateway.upstreams.parse_response import read_delta
from gateway.upstreams.request_body import document_for

_FORWARDED: Final = (
    frozenset(name for name, parameter in PARAMETERS.items() if parameter.capability)
    | LITELLM_FIELDS
    | frozenset("messages max_tokens max_completion_tokens response_format tools tool_choice".split())
    | frozenset("parallel_tool_calls stream stream_options".split())
)
# OpenAI's fields of a response; litellm's additions are dropped.
_RESPONSE_FIELDS: Final = frozenset("id object created model choices usage system_fingerprint service_tier".split())
_OFF: Final[Mapping[str, Any]] = {
    "num_retries": 0,
    "max_retries": 0,
    "caching": False,
    "drop_params": False,
    "no-log": True,
    "_skip_mcp_handler": True,  # the client runs the tools; and the handler needs a package that is not installed
}
_MAX_MESSAGE: Final = 500
# By the name of the exception's class or base classes; other exceptions by their status.
_UNSUPPORTED: Final = frozenset({"UnsupportedParamsError", "ImageFetchError"})
_TOO_LONG: Final = "ContextWindowExceededError"
_TIMEOUTS: Final = frozenset({"Timeout", "APITimeoutError", "TimeoutError"})
_UNREACHABLE: Final = frozenset({"APIConnectionError"})


def arguments_for(call: Call, *, key: str, provider_takes: Container[str] | None = None) -> dict[str, Any]:
    """Arguments of `litellm.acompletion`. `provider_takes` are the provider's parameters, if known: hints and values
    without effect are left out for others. Raises Unsupported for a field that litellm does not know, and for content
    that the gateway would have to download."""
    target = call.target
    document = document_for(call, target.capabilities)
    _refuse_remote_content(document["messages"])
    left_ms = DEFAULT_TOTAL_MS if call.left_ms is None else call.left_ms  # without one litellm sets a limit of its own
    arguments = {name: value for name, value in document.items() if _is_sent(name, value, provider_takes)}
    arguments.update(_OFF, model=target.model, timeout=left_ms / 1000)
    if target.url.startswith(("http://", "https://")):
        arguments["api_base"] = target.url
    if key:
        arguments["api_key"] = key
    if target.headers:
        arguments["extra_headers"] = dict(target.headers)
    return arguments


def provider_parameters(litellm: Any, model: str) -> frozenset[str] | None:
    """The parameters of OpenAI's API that the provider of a model supports; None if litellm does not know."""
    try:
        found = litellm.get_supported_openai_params(model=model)
    except Exception:  # noqa: BLE001 - raises arbitrary types for unknown models
        return None
    return frozenset(found) if found else None


def _is_sent(name: str, value: Any, provider_takes: Container[str] | None) -> bool:
    if name == "model" or value is None:
        return False
    parameter = PARAMETERS.get(name)
    is_taken = name in _FORWARDED and (parameter is None or provider_takes is None or name in provider_takes)
    if is_taken or (parameter is not None and (parameter.is_hint or not parameter.has_effect(value))):
        return is_taken
    if name in _FORWARDED:
        return True  # litellm refuses it
    raise Unsupported(f"Targets of kind litellm do not support {name!r}.", detail="parameter", param=name)


async def deltas_of(litellm: Any, model: str, response: Any) -> AsyncGenerator[Delta, None]:
    """The chunks of a stream, or the whole response, in OpenAI's format. Raises AttemptFailed."""
    if not hasattr(response, "__aiter__"):
        yield _delta(litellm, model, response.model_dump(exclude_none=True), is_chunk=False)
        return
    name = ""
    try:
        async for chunk in response:
            document = chunk.model_dump(exclude_none=True)
            document["id"] = name = name or document.get("id", "")  # some providers send a new id with every chunk
            yield _delta(litellm, model, document, is_chunk=True)
    except AttemptFailed:
        raise
    except Exception as fault:  # litellm raises many types for a broken stream
        raise fault_of(fault) from fault


async def close_stream(response: Any) -> None:
    """Close a stream that was not read to its end; does nothing for a closed stream or a whole response."""
    if hasattr(response, "__aiter__"):
        with contextlib.suppress(Exception):  # the response is discarded, so errors do not matter
            await response.aclose()


def fault_of(fault: Exception) -> AttemptFailed:
    """Maps an exception of litellm to an error. Its message is kept only if it concerns the client's request."""
    names = {kind.__name__ for kind in type(fault).__mro__}
    name = type(fault).__name__
    if names & _TIMEOUTS:
        return UpstreamError("The provider did not answer in time.", detail=name)
    if names & _UNREACHABLE:
        return UpstreamError("Cannot connect to the provider.", detail=name)
    status = _status(fault)
    if status is None:
        return UpstreamError("The provider's response could not be parsed.", detail=name)
    found = _answered(fault, names, status)
    found.upstream_status = status
    return found


def _answered(fault: Exception, names: Container[str], status: int) -> AttemptFailed:
    """The error for a provider's response with this status."""
    message, name = _message(fault), type(fault).__name__
    if _TOO_LONG in names:
        said = read_context_limit({"message": message}) or ContextLimit()
        return ContextLengthExceeded(message, limit=said.limit, needed=said.needed, detail=name)
    if any(each in names for each in _UNSUPPORTED):
        return Unsupported(message, detail=name)
    if name == "ContentPolicyViolationError":
        return Refused(message, status=400, code="content_policy_violation", detail=name)
    found = from_error_object({**_error_object(fault), "message": message}, status=status)
    found.retry_after_s = _retry_after_s(fault)
    return found


def _delta(litellm: Any, model: str, document: dict[str, Any], *, is_chunk: bool) -> Delta:
    usage: dict[str, Any] = document.get("usage") or {}
    if usage:
        usage.pop("cost", None)
        if all(not choice.get("delta", choice) for choice in document["choices"]):
            document["choices"] = []  # OpenAI sends the usage of a stream in a chunk without choices
    kept = {name: value for name, value in document.items() if name in _RESPONSE_FIELDS}
    delta = read_delta(orjson.dumps(kept), is_chunk=is_chunk)
    if delta.usage is None:
        return delta
    return Delta(data=delta.data, pieces=delta.pieces, usage=_with_cost(litellm, model, delta.usage, usage))


def _with_cost(litellm: Any, model: str, usage: Usage, reported: dict[str, Any]) -> Usage:
    """Adds the cost in dollars from litellm's price list; unchanged if the model is not listed."""
    cached = (reported.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    try:
        prompt, completion = litellm.cost_per_token(
            model=model,
            prompt_tokens=usage.input_tokens or 0,
            completion_tokens=usage.output_tokens or 0,
            cache_read_input_tokens=cached,
        )
    except Exception:  # noqa: BLE001 - raises arbitrary types for unknown models; an unknown price is not an error
        return usage
    cost = float(prompt + completion)
    return (
        replace(usage, cost=cost) if cost >= 0 else usage
    )  # negative if more cached tokens are reported than input tokens


def _refuse_remote_content(messages: list[dict[str, Any]]) -> None:
    """For some providers litellm downloads image URLs itself: a request must not make the gateway fetch anything."""
    for message in messages:
        parts = message.get("content")
        for part in parts if isinstance(parts, list) else ():
            if part.get("type") == "text":
                continue
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else image
            if part.get("type") != "image_url" or not isinstance(url, str) or not url.startswith("data:"):
                raise Unsupported(
                    "This target accepts only text and images as data: URLs.", detail="part", param="messages"
                )


def _status(fault: Exception) -> int | None:
    """The provider's own status: litellm's classes change some (529 to 500, 413 to 400)."""
    for candidate in (fault.__context__, fault):
        status = getattr(candidate, "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _message(fault: Exception) -> str:
    """The provider's message without litellm's prefix, unwrapped from its JSON if necessary."""
    text = _error_object(fault).get("message") or _text_of(fault).removeprefix(f"litellm.{type(fault).__name__}: ")
    return str(text)[:_MAX_MESSAGE]


def _error_object(fault: Exception) -> dict[str, Any]:
    """The provider's error object, if litellm's message contains it as JSON."""
    text = _text_of(fault)
    try:
        error = orjson.loads(text[text.index("{") :])["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}


def _text_of(fault: Exception) -> str:
    return str(getattr(fault, "message", "") or fault)


def _retry_after_s(fault: Exception) -> float | None:
    headers = getattr(fault, "litellm_response_headers", None) or {}
    lowered = {str(name).lower(): str(value) for name, value in dict(headers).items()}
    return read_retry_after(lowered, now_s=time.time())
