"""What is asked of a provider through litellm, and what its answers and exceptions mean; only this file knows.

Nothing of a request reaches litellm but what is named here: its other parameters could change where a call goes.
"""

import contextlib
import math
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from gateway.errors import AttemptFailed, Refused, Unsupported, UpstreamError
from gateway.types import Call, Delta, Usage
from gateway.upstreams.errors import from_error_object
from gateway.upstreams.parse_response import read_delta
from gateway.upstreams.request_body import document_for

_PASSED_ON: Final = frozenset(
    "messages temperature top_p n stop max_tokens max_completion_tokens presence_penalty frequency_penalty logit_bias"
    " user seed response_format tools tool_choice parallel_tool_calls logprobs top_logprobs reasoning_effort prediction"
    " stream stream_options".split()
)
# What stays of an answer: OpenAI's own fields, not litellm's notes beside them.
_ANSWERED: Final = frozenset("id object created model choices usage system_fingerprint service_tier".split())
_OFF: Final[Mapping[str, Any]] = {
    "num_retries": 0,
    "max_retries": 0,
    "caching": False,
    "drop_params": False,
    "no-log": True,
    "_skip_mcp_handler": True,  # tools are the client's to run; and importing it needs a package that is not ours
}
_MAX_MESSAGE: Final = 500
# By the name of the class or of one it descends from, nearest first; the others by their status.
_UNSUPPORTED: Final = frozenset({"UnsupportedParamsError", "ContextWindowExceededError", "ImageFetchError"})
_SILENT: Final = frozenset({"Timeout", "APITimeoutError", "TimeoutError"})
_UNREACHABLE: Final = frozenset({"APIConnectionError"})


def arguments_for(call: Call, *, key: str, idle_s: float) -> dict[str, Any]:
    """For `litellm.acompletion`. Raises Unsupported for what would make us fetch what a request names."""
    target = call.target
    document = document_for(call, target.capabilities)
    _refuse_fetching(document["messages"])
    left_s = math.inf if call.left_ms is None else call.left_ms / 1000
    arguments = {name: value for name, value in document.items() if name in _PASSED_ON and value is not None}
    arguments.update(_OFF, model=target.model, timeout=min(left_s, idle_s))
    if target.url.startswith(("http://", "https://")):
        arguments["api_base"] = target.url
    if key:
        arguments["api_key"] = key
    return arguments


async def deltas_of(litellm: Any, model: str, answer: Any) -> AsyncGenerator[Delta, None]:
    """The chunks of a stream, or the one whole answer, as OpenAI spells them. Raises AttemptFailed."""
    if not hasattr(answer, "__aiter__"):
        yield _delta(litellm, model, answer.model_dump(exclude_none=True))
        return
    name = ""
    try:
        async for chunk in answer:
            document = chunk.model_dump(exclude_none=True)
            document["id"] = name = name or document.get("id", "")  # some get a new one with every chunk
            yield _delta(litellm, model, document)
    except AttemptFailed:
        raise
    except Exception as fault:  # a provider's stream can break in any of litellm's words; all are that target's fault
        raise fault_of(fault) from fault


async def hang_up(answer: Any) -> None:
    """Close a stream that was not read to its end; nothing for what is closed or was no stream."""
    if hasattr(answer, "__aiter__"):
        with contextlib.suppress(Exception):  # it is given up: how it breaks now is of no interest
            await answer.aclose()


def fault_of(fault: Exception) -> AttemptFailed:
    """What an exception of litellm means. Its words are kept only where they speak of the request itself."""
    names = {kind.__name__ for kind in type(fault).__mro__}
    name = type(fault).__name__
    if names & _SILENT:
        return UpstreamError("The provider fell silent.", detail=name)
    if names & _UNREACHABLE:
        return UpstreamError("The provider cannot be reached.", detail=name)
    status = _status(fault)
    if status is None:
        return UpstreamError("The provider's answer could not be understood.", detail=name)
    message = _message(fault)
    if names & _UNSUPPORTED:
        return Unsupported(message, detail=name)
    if name == "ContentPolicyViolationError":
        return Refused(message, status=400, code="content_policy_violation", detail=name)
    found = from_error_object({"message": message}, status=status)
    found.retry_after_s = _retry_after_s(fault)
    return found


def _delta(litellm: Any, model: str, document: dict[str, Any]) -> Delta:
    usage: dict[str, Any] = document.get("usage") or {}
    if usage:
        usage.pop("cost", None)
        if all(not choice.get("delta", choice) for choice in document["choices"]):
            document["choices"] = []  # the account of a stream comes alone, as OpenAI sends it
    delta = read_delta(orjson.dumps({name: value for name, value in document.items() if name in _ANSWERED}))
    if delta.usage is None:
        return delta
    return Delta(data=delta.data, pieces=delta.pieces, usage=_priced(litellm, model, delta.usage, usage))


def _priced(litellm: Any, model: str, usage: Usage, told: dict[str, Any]) -> Usage:
    """With its cost in dollars by litellm's own list of prices; None for a model that is not on it."""
    cached = (told.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    try:
        prompt, completion = litellm.cost_per_token(
            model=model,
            prompt_tokens=usage.input_tokens or 0,
            completion_tokens=usage.output_tokens or 0,
            cache_read_input_tokens=cached,
        )
    except Exception:  # noqa: BLE001 - it raises whatever it likes for models it does not know; an unknown price is no fault
        return usage
    cost = float(prompt + completion)
    return replace(usage, cost=cost) if cost >= 0 else usage  # more tokens told as cached than there were


def _refuse_fetching(messages: list[dict[str, Any]]) -> None:
    """For some providers litellm downloads an image's address itself: no request may send us anywhere."""
    for message in messages:
        parts = message.get("content")
        for part in parts if isinstance(parts, list) else ():
            if part.get("type") == "text":
                continue
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else image
            if part.get("type") != "image_url" or not isinstance(url, str) or not url.startswith("data:"):
                raise Unsupported(
                    "To this target only text and images as data: URLs can be sent.", detail="part", param="messages"
                )


def _status(fault: Exception) -> int | None:
    """The provider's own, which litellm's class was made from: it takes 529 for 500, and 413 for 400."""
    for said in (fault.__context__, fault):
        status = getattr(said, "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _message(fault: Exception) -> str:
    """The provider's words; litellm puts its own before them, and sometimes leaves them wrapped in their JSON."""
    text = str(getattr(fault, "message", "") or fault)
    try:
        told = orjson.loads(text[text.index("{") :])["error"]["message"]
    except (ValueError, KeyError, TypeError):
        told = text.removeprefix(f"litellm.{type(fault).__name__}: ")
    return str(told)[:_MAX_MESSAGE]


def _retry_after_s(fault: Exception) -> float | None:
    headers = getattr(fault, "litellm_response_headers", None) or {}
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
