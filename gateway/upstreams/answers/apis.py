"""The answers of a target's other APIs, read as Deltas: text completions and responses as chat completions, embeddings
and decisions unchanged, counts of tokens as usage.

The pipeline and everything above it knows one form of answer.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import msgspec

from gateway.enums import TargetApi
from gateway.errors import UpstreamError
from gateway.types import Delta, Piece, Usage
from gateway.upstreams.answers import lenient
from gateway.upstreams.answers.lenient import ChunkState
from gateway.upstreams.answers.responses import read_response, read_response_event
from gateway.upstreams.parse_response import read_delta, read_event

ReadWhole = Callable[[bytes], Delta]
ReadEvent = Callable[[bytes, ChunkState], Delta | None]

_MAX_TOKENS: Final = 1 << 40


def read_text_completion(data: bytes) -> Delta:
    """A whole text completion. Raises AttemptFailed."""
    return read_delta(_as_chat(data, body="message", form="chat.completion"))


def read_text_event(data: bytes, state: ChunkState) -> Delta | None:
    """One chunk of a text completion. Raises AttemptFailed."""
    return read_event(_as_chat(data, body="delta", form="chat.completion.chunk"), state)


class _Counts(msgspec.Struct):
    prompt_tokens: int | None = None


class _Embedding(msgspec.Struct):
    index: int | None = None


class _Embeddings(msgspec.Struct):
    data: list[_Embedding] | None = None
    usage: _Counts | None = None


_embeddings = msgspec.json.Decoder(_Embeddings)


def read_embeddings(data: bytes) -> Delta:
    """A list of embeddings, forwarded unchanged. Raises AttemptFailed."""
    try:
        found = _embeddings.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None
    if found is None or not found.data:
        read_delta(data)  # raises the error that the answer reports, or that it is no answer
        raise UpstreamError("The target's response is not a list of embeddings.", detail="no embeddings")
    tokens = found.usage.prompt_tokens if found.usage else None
    usage = Usage(input_tokens=tokens, output_tokens=0) if tokens is not None and 0 <= tokens <= _MAX_TOKENS else None
    return Delta(data=data, pieces=(Piece(index=0, finish_reason="stop", is_answer=True),), usage=usage)


class _DecisionCounts(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Decision(msgspec.Struct):
    answers: list[msgspec.Raw] | None = None
    usage: _DecisionCounts | None = None


_decision = msgspec.json.Decoder(_Decision)


def read_decision(data: bytes) -> Delta:
    """The answers of a decision, forwarded unchanged; the pipeline checks them. Raises AttemptFailed."""
    try:
        found = _decision.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None
    if found is None or found.answers is None:
        read_delta(data)  # raises the error that the answer reports, or that it is no answer
        raise UpstreamError("The target's response is not a decision.", detail="no answers")
    counts = (found.usage.input_tokens, found.usage.output_tokens) if found.usage else (None, None)
    inputs, outputs = (count if count is not None and 0 <= count <= _MAX_TOKENS else None for count in counts)
    usage = None if inputs is None and outputs is None else Usage(input_tokens=inputs, output_tokens=outputs)
    return Delta(data=data, pieces=(Piece(index=0, finish_reason="stop", is_answer=True),), usage=usage)


class _TokenCount(msgspec.Struct):
    count: Annotated[int, msgspec.Meta(ge=0, le=_MAX_TOKENS)]


_token_count = msgspec.json.Decoder(_TokenCount)


def read_token_count(data: bytes) -> Delta:
    """The count of vLLM's and the worker's `/tokenize`. Raises AttemptFailed."""
    try:
        found = _token_count.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise UpstreamError("The target's response is not a count of tokens.", detail="no count") from fault
    return Delta(data=data, pieces=(Piece(index=0, is_answer=True),), usage=Usage(input_tokens=found.count))


FORMS: Final[Mapping[TargetApi, tuple[ReadWhole, ReadEvent]]] = {
    TargetApi.CHAT: (read_delta, read_event),
    TargetApi.COMPLETIONS: (read_text_completion, read_text_event),
    TargetApi.EMBEDDINGS: (read_embeddings, read_event),
    TargetApi.DECISIONS: (read_decision, read_event),
    TargetApi.RESPONSES: (read_response, read_response_event),
    TargetApi.TOKENIZE: (read_token_count, read_event),
}


def _as_chat(data: bytes, *, body: str, form: str) -> bytes:
    """The same answer as a chat completion; anything else is left to the reader of chat completions."""
    try:
        document = lenient.load(data)
    except (ValueError, RecursionError):
        return data
    if not isinstance(document, dict) or not isinstance(document.get("choices"), list):
        return data
    choices = [_chat_choice(choice, body) if isinstance(choice, dict) else choice for choice in document["choices"]]
    return lenient.dump({**document, "object": form, "choices": choices})


def _chat_choice(choice: dict[str, Any], body: str) -> dict[str, Any]:
    if "text" not in choice:  # some servers answer text completions with chat completions
        return choice
    kept = {name: value for name, value in choice.items() if name not in ("text", "logprobs")}
    content: dict[str, Any] = {"content": choice["text"]}
    if body == "message":
        content["role"] = "assistant"
    logprobs = _chat_logprobs(choice.get("logprobs"))
    return {**kept, body: content, **({"logprobs": logprobs} if logprobs else {})}


def _chat_logprobs(given: Any) -> dict[str, Any] | None:
    """OpenAI's parallel lists as one record per token; None for anything else."""
    if not isinstance(given, dict) or not isinstance(given.get("tokens"), list):
        return None
    tokens = given["tokens"]
    names = ("token_logprobs", "top_logprobs", "text_offset")
    values, tops, offsets = (_list_of(given.get(name), len(tokens)) for name in names)
    records = [
        {"token": token, "logprob": value, "bytes": None, "top_logprobs": _chat_top(top), "text_offset": offset}
        for token, value, top, offset in zip(tokens, values, tops, offsets, strict=True)
    ]
    return {"content": records}


def _list_of(given: Any, length: int) -> list[Any]:
    return given if isinstance(given, list) and len(given) == length else [None] * length


def _chat_top(given: Any) -> list[dict[str, Any]] | None:
    """None stays None: nothing predicts the first token of a prompt."""
    if not isinstance(given, dict):
        return None
    return [{"token": token, "logprob": value, "bytes": None} for token, value in given.items()]
