"""Parses an OpenAI response, whole or one chunk, into a Delta. The original bytes are kept where clients can use them.

A response with OpenAI's types is decoded in one pass. Any other goes through `answers.lenient`, which accepts what
OpenAI's own clients accept.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

import msgspec

from gateway.errors import AttemptFailed, UpstreamError
from gateway.types import Delta, Piece, ToolCall, Usage
from gateway.upstreams.answers import lenient
from gateway.upstreams.answers.lenient import ChunkState
from gateway.upstreams.errors import from_error_object, status_of
from twolane.process import exact_json

_ABSENT: Final = msgspec.Raw()


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Custom(msgspec.Struct):
    name: str | None = None
    input: str | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: Any = None
    function: _Function | None = None
    custom: _Custom | None = None


class _Body(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: msgspec.Raw = _ABSENT  # the older form of a single call
    reasoning_content: msgspec.Raw = _ABSENT
    reasoning: msgspec.Raw = _ABSENT
    audio: msgspec.Raw = _ABSENT


class _Choice(msgspec.Struct):
    index: int | None = None
    delta: _Body | None = None
    message: _Body | None = None
    finish_reason: str | None = None


class _Diffusion(msgspec.Struct):
    confidence: float | None = None
    converged: bool | None = None
    load: float | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    diffusion: _Diffusion | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT


_MAX_TOKENS: Final = 1 << 40  # above any real response, and within what readers of the log can represent
_Index = Annotated[int, msgspec.Meta(ge=0)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=_MAX_TOKENS)]


class _Text(msgspec.Struct):
    """The message of the most common answer. A field of None must be null or absent."""

    content: str
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    reasoning_content: None = None
    reasoning: None = None
    audio: None = None


class _TextChoice(msgspec.Struct):
    index: _Index
    message: _Text
    delta: None = None
    finish_reason: str | None = None


class _Counts(msgspec.Struct):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    diffusion: _Diffusion | None = None


class _TextAnswer(msgspec.Struct):
    choices: Annotated[list[_TextChoice], msgspec.Meta(min_length=1, max_length=1)]
    usage: _Counts | None = None
    error: None = None


_decoder = msgspec.json.Decoder(_Completion)
_decode_text_answer: Final = msgspec.json.Decoder(_TextAnswer).decode
_function_decoder = msgspec.json.Decoder(_Function)
_usage_decoder = msgspec.json.Decoder(_Usage)
MAX_OBJECTS: Final = 1 << 20  # of one response: each takes many times the memory of its two bytes
_LARGE_BYTES: Final = 1 << 16  # a smaller response is not counted
_FALSY: Final = frozenset({b"", b"null", b"false", b"0", b'""', b"{}", b"[]"})  # OpenAI's clients ignore such an error
# A choice that ended for one of these reasons is an answer without any content.
_ENDS_WITHOUT_CONTENT: Final = frozenset({"length", "content_filter"})
_NO_BODY: Final = _Body()


def read_text_answer(data: bytes) -> Delta | None:
    """What `read_delta` returns for the most common whole response: the text of one choice, and perhaps the usage, all
    of OpenAI's types. None for any other."""
    if len(data) > _LARGE_BYTES:
        return None
    try:
        if not data.isascii():
            data.decode()  # as in `_read`
        found = _decode_text_answer(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    choice, counts = found.choices[0], found.usage
    piece = Piece(
        index=choice.index, text=choice.message.content, finish_reason=choice.finish_reason or None, is_answer=True
    )
    if counts is None:
        usage = None
    elif counts.diffusion is None:
        usage = Usage(input_tokens=counts.prompt_tokens, output_tokens=counts.completion_tokens)
    else:
        usage = _denoised(counts.prompt_tokens, counts.completion_tokens, counts.diffusion)
    return Delta(data=data, pieces=(piece,), usage=usage)


def read_delta(data: bytes, *, is_chunk: bool = False) -> Delta:
    """A whole response, or one chunk of a stream. Raises AttemptFailed for an error object and for anything that is not
    a completion."""
    delta = _read(data, None, is_chunk=is_chunk)
    if delta is None:
        raise UpstreamError("The target's response is not a chat completion.", detail="no choices")
    return delta


def read_event(data: bytes, state: ChunkState) -> Delta | None:
    """One event of a stream; None if it adds nothing to the response, such as a ping. Raises AttemptFailed."""
    return _read(data, state, is_chunk=True)


def _text_of_one_choice(data: bytes, completion: _Completion, *, is_chunk: bool) -> Delta | None:
    """The delta of the most common responses: at most the text of one choice, its end, and the usage. None for any
    other."""
    if completion.choices is None or len(completion.choices) != 1 or completion.error is not _ABSENT:
        return None
    choice = completion.choices[0]
    body, index = choice.delta if is_chunk else choice.message, choice.index
    if body is None or index is None or index < 0 or body.refusal:
        return None
    if body.tool_calls is not None or not (
        body.function_call is body.reasoning is body.reasoning_content is body.audio is _ABSENT
    ):
        return None
    text, reason = body.content, choice.finish_reason or None
    is_answer = text is not None or reason in _ENDS_WITHOUT_CONTENT  # otherwise a role, or an end
    piece = Piece(index=index, text=text or "", finish_reason=reason, is_answer=is_answer)
    return Delta(data=data, pieces=(piece,), usage=None if completion.usage is _ABSENT else _usage(completion.usage))


def error_of(data: bytes) -> AttemptFailed:
    """The error that an event named `error` reports, with or without an `error` object around it."""
    try:
        found: Any = lenient.load(data)
    except (ValueError, RecursionError):
        found = None
    return _error_of((found.get("error") or found) if isinstance(found, dict) else found)


def with_texts(deltas: Iterable[Delta], texts: Mapping[tuple[int, int | None], str], *, is_chunk: bool) -> list[Delta]:
    """The same response with these texts instead, by choice and tool call (None: the choice's content).

    In a stream (`is_chunk`) the first delta with content carries the whole new text; the others keep everything else.
    Raises JsonError for a response that cannot be written again as it was.
    """
    left = dict(texts)
    return [
        read_delta(_with_texts(delta.data, texts, left, is_chunk=is_chunk), is_chunk=is_chunk)
        if delta.pieces
        else (replace(delta, original=b"") if delta.original else delta)
        for delta in deltas
    ]


def _with_texts(
    data: bytes,
    texts: Mapping[tuple[int, int | None], str],
    left: dict[tuple[int, int | None], str],
    *,
    is_chunk: bool,
) -> bytes:
    document = exact_json.loads(data)
    for place, choice in enumerate(document["choices"]):
        index = lenient.index_of(choice, place)
        body = lenient.body_of(choice, is_chunk=is_chunk)
        if body.get("content") and (index, None) in texts:
            body["content"] = left.pop((index, None), "")
        for position, call in enumerate(body.get("tool_calls") or ()):
            number, function = lenient.index_of(call, position), call.get("function") or {}
            if function.get("arguments") and (index, number) in texts:
                function["arguments"] = left.pop((index, number), "")
    return exact_json.dumps(document)


def _read(data: bytes, state: ChunkState | None, *, is_chunk: bool) -> Delta | None:
    if len(data) > _LARGE_BYTES and data.count(b"{") > MAX_OBJECTS:
        raise UpstreamError("The target's response is too large.", detail=f"more than {MAX_OBJECTS} objects")
    try:
        if not data.isascii():
            data.decode()  # the decoder does not look into the texts of fields that it skips
        completion: _Completion | None = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        completion = None
    if completion is not None:
        common = _text_of_one_choice(data, completion, is_chunk=is_chunk)
        if common is not None:
            return common
    if completion is None or completion.choices is None or _is_unusual(completion.choices, is_event=state is not None):
        rewritten = _rewritten(data, state)
        if rewritten is None:
            return None
        data, completion = rewritten
    pieces = tuple(
        [_piece(position, choice, is_chunk=is_chunk) for position, choice in enumerate(completion.choices or ())]
    )
    if completion.error is not _ABSENT:
        error = bytes(completion.error)
        if error not in _FALSY and (is_chunk or not _is_whole_answer(completion, pieces)):
            raise _error_of(lenient.load(error))
    return Delta(data=data, pieces=pieces, usage=None if completion.usage is _ABSENT else _usage(completion.usage))


def _rewritten(data: bytes, state: ChunkState | None) -> tuple[bytes, _Completion] | None:
    """The slow path: the document with OpenAI's types. None if there is neither a choice, nor usage, nor an error."""
    try:
        document = lenient.load(data)
        if not isinstance(document, dict):
            return None
        is_empty = not isinstance(document.get("choices"), list)
        if is_empty and not document.get("error") and not isinstance(document.get("usage"), dict):
            return None
        rewritten = lenient.dump(lenient.normalise(document, state))
        return rewritten, _decoder.decode(rewritten)
    except (ValueError, TypeError, RecursionError) as fault:  # the decoder's errors are ValueErrors
        raise UpstreamError("The target's response is not a chat completion.", detail="malformed answer") from fault


def _is_unusual(choices: list[_Choice], *, is_event: bool) -> bool:
    """Whether applications could not use a choice: it has an impossible index, or neither delta nor message (in an
    event of a stream: no delta), or a fragment of a tool call that does not say which call it belongs to."""
    for choice in choices:
        delta = choice.delta
        if choice.index is not None and choice.index < 0:
            return True
        if delta is None:
            if is_event or choice.message is None:
                return True
        elif delta.tool_calls and not all(call.index is not None and call.index >= 0 for call in delta.tool_calls):
            return True
    return False


def _is_whole_answer(completion: _Completion, pieces: tuple[Piece, ...]) -> bool:
    """Whether it is a complete response with content: OpenAI's clients ignore an `error` beside it."""
    is_whole = any(choice.message is not None for choice in completion.choices or ())
    return is_whole and any(piece.is_answer for piece in pieces)


def _error_of(found: Any) -> AttemptFailed:
    """An error inside a response that began with status 200: its code identifies it, or is the status."""
    fields: Mapping[str, Any] = found if isinstance(found, dict) else {"message": found}
    return from_error_object(fields, status=status_of(fields))


def _piece(position: int, choice: _Choice, *, is_chunk: bool) -> Piece:
    """Which body counts is the rule of `lenient.body_of`."""
    body = (choice.delta or choice.message) if is_chunk else (choice.message or choice.delta)
    body, calls = body or _NO_BODY, None if body is None else body.tool_calls
    index, reason = position if choice.index is None else choice.index, choice.finish_reason or None
    other_bytes = _other_bytes(body)
    return Piece(
        index=index,
        text=body.content or "",
        refusal=body.refusal or "",
        tool_calls=tuple(_tool_call(number, call) for number, call in enumerate(calls)) if calls else _older_call(body),
        finish_reason=reason,
        other_bytes=other_bytes,
        is_answer=body.content is not None
        or bool(body.refusal or calls or other_bytes)
        or choice.finish_reason in _ENDS_WITHOUT_CONTENT,
    )


def _older_call(body: _Body) -> tuple[ToolCall, ...]:
    """The call in `function_call`, if there is one."""
    raw = body.function_call
    if raw is _ABSENT or bytes(raw) in _FALSY:
        return ()
    try:
        function = _function_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):  # other content, which applications may understand
        return ()
    return (ToolCall(index=0, name=function.name or "", arguments=function.arguments or ""),)


def _other_bytes(body: _Body) -> int:
    """Bytes of content that is neither text nor a tool call."""
    size = 0
    for field in (body.reasoning_content, body.reasoning, body.function_call, body.audio):
        if field is not _ABSENT and (raw := bytes(field)) not in _FALSY:
            size += len(raw)
    return size


def _tool_call(position: int, call: _ToolCall) -> ToolCall:
    """Whole responses number tool calls by position only."""
    function = call.function or _Function()
    if call.custom is not None:
        function = _Function(name=call.custom.name, arguments=call.custom.input)
    return ToolCall(
        index=position if call.index is None else call.index,
        name=function.name or "",
        arguments=function.arguments or "",
        id=call.id if isinstance(call.id, str) else "",
    )


def _usage(data: msgspec.Raw) -> Usage | None:
    """Usage as reported by the target. Impossible values are treated as not reported."""
    try:
        usage = _usage_decoder.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return _unusual_usage(lenient.load(bytes(data)))
    inputs, outputs = _count(usage.prompt_tokens), _count(usage.completion_tokens)
    if usage.diffusion is None:
        return Usage(input_tokens=inputs, output_tokens=outputs)
    return _denoised(inputs, outputs, usage.diffusion)


def _denoised(inputs: int | None, outputs: int | None, diffusion: _Diffusion) -> Usage:
    """The usage that our worker reports."""
    confidence = diffusion.confidence
    return Usage(
        input_tokens=inputs,
        output_tokens=outputs,
        confidence=confidence if confidence is not None and 0 <= confidence <= 1 else None,
        converged=diffusion.converged,
        load=diffusion.load if diffusion.load is not None and 0 <= diffusion.load <= 1 else None,
    )


def _unusual_usage(usage: Any) -> Usage | None:
    """Usage whose fields have other types than OpenAI's, for example counts written as floats."""
    if not isinstance(usage, dict):
        return None
    return Usage(
        input_tokens=_count(lenient.count_of(usage.get("prompt_tokens"))),
        output_tokens=_count(lenient.count_of(usage.get("completion_tokens"))),
    )


def _count(tokens: int | None) -> int | None:
    return tokens if tokens is not None and 0 <= tokens <= _MAX_TOKENS else None
