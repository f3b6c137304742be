"""Parses an OpenAI response, whole or one chunk, into a Delta. The original bytes are kept."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
import orjson

from gateway.errors import AttemptFailed, UpstreamError
from gateway.types import Delta, Piece, ToolCall, Usage
from gateway.upstreams.errors import from_error_object


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    function: _Function | None = None


class _Body(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Body | None = None
    message: _Body | None = None
    finish_reason: str | None = None


class _Diffusion(msgspec.Struct):
    confidence: float | None = None
    converged: bool | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    diffusion: _Diffusion | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


_decoder = msgspec.json.Decoder(_Completion)
_MAX_TOKENS: Final = 1 << 40  # above any real response, and within what readers of the log can represent


def read_delta(data: bytes) -> Delta:
    """Raises AttemptFailed for an error object and for anything that is not a completion."""
    try:
        completion = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise UpstreamError("The target's response is not a chat completion.", detail="malformed answer") from fault
    if bytes(completion.error) not in (b"", b"null"):
        raise _stream_error(bytes(completion.error))
    if completion.choices is None:
        raise UpstreamError("The target's response is not a chat completion.", detail="no choices")
    return Delta(
        data=data,
        pieces=tuple(_piece(choice) for choice in completion.choices),
        usage=_usage(completion.usage) if completion.usage else None,
    )


def with_texts(deltas: Iterable[Delta], texts: Mapping[tuple[int, int | None], str]) -> list[Delta]:
    """The same response with these texts instead, by choice and tool call (None: the choice's content).

    In a stream the first delta with content carries the whole new text; the others keep everything else.
    """
    left = dict(texts)
    return [read_delta(_with_texts(delta.data, texts, left)) if delta.pieces else delta for delta in deltas]


def _with_texts(
    data: bytes, texts: Mapping[tuple[int, int | None], str], left: dict[tuple[int, int | None], str]
) -> bytes:
    document = orjson.loads(data)
    for choice in document["choices"]:
        index = choice.get("index", 0)
        body = choice.get("delta") or choice.get("message") or {}
        if body.get("content") and (index, None) in texts:
            body["content"] = left.pop((index, None), "")
        for position, call in enumerate(body.get("tool_calls") or ()):
            number, function = call.get("index", position), call.get("function") or {}
            if function.get("arguments") and (index, number) in texts:
                function["arguments"] = left.pop((index, number), "")
    return orjson.dumps(document)


def _stream_error(error: bytes) -> AttemptFailed:
    """An error inside a stream that began with status 200: only its code identifies it, which may be an HTTP status."""
    error_object = msgspec.json.decode(error)
    if not isinstance(error_object, dict):
        return from_error_object({"message": error_object}, status=502)
    code = error_object.get("code")
    return from_error_object(error_object, status=code if isinstance(code, int) and 400 <= code < 600 else 502)


def _piece(choice: _Choice) -> Piece:
    body = choice.delta or choice.message
    if body is None:
        return Piece(index=choice.index, finish_reason=choice.finish_reason)
    return Piece(
        index=choice.index,
        text=body.content or "",
        refusal=body.refusal or "",
        tool_calls=tuple(_tool_call(position, call) for position, call in enumerate(body.tool_calls or ())),
        finish_reason=choice.finish_reason,
    )


def _tool_call(position: int, call: _ToolCall) -> ToolCall:
    """Whole responses number tool calls by position only."""
    function = call.function or _Function()
    return ToolCall(
        index=position if call.index is None else call.index,
        name=function.name or "",
        arguments=function.arguments or "",
    )


def _usage(usage: _Usage) -> Usage:
    """Usage as reported by the target. Impossible values are treated as not reported."""
    diffusion = usage.diffusion or _Diffusion()
    confidence = diffusion.confidence
    return Usage(
        input_tokens=_count(usage.prompt_tokens),
        output_tokens=_count(usage.completion_tokens),
        confidence=confidence if confidence is not None and 0 <= confidence <= 1 else None,
        converged=diffusion.converged,
    )


def _count(tokens: int | None) -> int | None:
    return tokens if tokens is not None and 0 <= tokens <= _MAX_TOKENS else None
