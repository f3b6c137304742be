"""The answers of a target with OpenAI's responses API, read as chat completions, the form that the pipeline knows.

The original stays beside the translation (`Delta.original`): clients of this API get what the target sent. Texts and
calls come from the events that carry them in fragments, or, of a server that sends none, from those that repeat them.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from gateway.beyond_chat import joined_name
from gateway.errors import UpstreamError
from gateway.types import Delta, Piece
from gateway.upstreams.answers import lenient
from gateway.upstreams.answers.lenient import ChunkState
from gateway.upstreams.parse_response import error_of, read_delta, read_event

Document = Mapping[str, Any]
_REASONS: Final = {"max_output_tokens": "length", "content_filter": "content_filter"}
_TEXTS: Final = {
    "response.output_text": "content",
    "response.refusal": "refusal",
    "response.reasoning_text": "reasoning_content",
    "response.reasoning_summary_text": "reasoning_content",
}
_ARGUMENTS: Final = {
    "response.function_call_arguments": ("function", "arguments"),
    "response.custom_tool_call_input": ("custom", "input"),
}
_CALLS: Final = {"function_call": ("function", "arguments"), "custom_tool_call": ("custom", "input")}
_ENDS: Final = frozenset({"response.completed", "response.incomplete"})
_TYPE: Final = re.compile(r"[a-z0-9_.]{1,100}")  # it becomes the name of an event
_MAX_OUTPUT: Final = 1 << 16  # items of one response


def read_response(data: bytes) -> Delta:
    """A whole response. Raises AttemptFailed."""
    document = _load(data)
    if document is None or not isinstance(document.get("output"), list):
        read_delta(data)  # raises the error that the answer reports, or that it is no answer
        raise UpstreamError("The target's response is not a response object.", detail="no output")
    _raise_failure(document)
    items = [item for item in document["output"] if isinstance(item, dict)]
    message = _message(items)
    reason = _reason(document, has_calls="tool_calls" in message)
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": _logprobs(items)}
    delta = read_delta(lenient.dump({**_head(document), "object": "chat.completion", "choices": [choice]}))
    return replace(delta, original=lenient.dump({**document, "output": items}))


def read_response_event(data: bytes, state: ChunkState) -> Delta | None:
    """One event of a response's stream. Raises AttemptFailed."""
    event = _load(data)
    if event is None or not isinstance(event.get("type"), str) or not _TYPE.fullmatch(event["type"]):
        return read_event(data, state)
    if event["type"] == "error":
        raise error_of(data)
    response = event.get("response")
    if isinstance(response, dict):
        _raise_failure(response)
    choices = _choices(event, state)
    head = _head(response if isinstance(response, dict) else {})
    delta = read_event(lenient.dump({**head, "object": "chat.completion.chunk", "choices": choices}), state)
    if delta is None:
        return None
    pieces = delta.pieces or _other_content(event, len(data))
    return replace(delta, pieces=pieces, original=lenient.dump(event))


def _load(data: bytes) -> dict[str, Any] | None:
    try:
        document = lenient.load(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _raise_failure(response: Document) -> None:
    if response.get("status") in ("failed", "cancelled"):
        given = response.get("error")
        found = given if isinstance(given, dict) else {"message": f"The response has {response['status']}."}
        raise error_of(lenient.dump({"error": found}))


def _head(response: Document) -> dict[str, Any]:
    """The fields of a response as a whole, in a chat completion."""
    named = {"id": response.get("id"), "created": response.get("created_at"), "model": response.get("model")}
    head = {name: value for name, value in named.items() if value is not None}
    if isinstance(usage := response.get("usage"), dict):
        head["usage"] = _usage(usage)
    return head


def _usage(given: Document) -> dict[str, Any]:
    prompt = {"cached_tokens": _nested(given, "input_tokens_details", "cached_tokens")}
    completion = {"reasoning_tokens": _nested(given, "output_tokens_details", "reasoning_tokens")}
    return {
        "prompt_tokens": given.get("input_tokens"),
        "completion_tokens": given.get("output_tokens"),
        "total_tokens": given.get("total_tokens"),
        "prompt_tokens_details": prompt,
        "completion_tokens_details": completion,
    }


def _nested(given: Document, outer: str, inner: str) -> Any:
    found = given.get(outer)
    return found.get(inner) if isinstance(found, dict) else None


def _reason(response: Document, *, has_calls: bool) -> str:
    if response.get("status") == "incomplete":
        return _REASONS.get(str(_nested(response, "incomplete_details", "reason")), "length")
    return "tool_calls" if has_calls else "stop"


def _message(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The output items as one message. An answer of hosted tools alone is an empty text."""
    texts: dict[str, list[str]] = {"content": [], "refusal": [], "reasoning_content": []}
    calls = []
    for item in items:
        for part in _parts(item):
            kind = "refusal" if part.get("type") == "refusal" else "content"
            kind = "reasoning_content" if item.get("type") == "reasoning" else kind
            text = part.get("refusal") if kind == "refusal" else part.get("text")
            texts[kind].append(text if isinstance(text, str) else "")
        if item.get("type") in _CALLS:
            calls.append(_call(item))
    found = {name: "".join(parts) for name, parts in texts.items() if parts}
    message = {"role": "assistant", "content": None if calls or not items or "refusal" in found else "", **found}
    return {**message, "tool_calls": calls} if calls else message


def _logprobs(items: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Those of all texts; None if there are none, because an empty list says that every token is certain."""
    listed = [part.get("logprobs") for item in items for part in _parts(item)]
    found = [each for records in listed if isinstance(records, list) for each in records]
    return {"content": found} if found else None


def _parts(item: Document) -> list[dict[str, Any]]:
    names = ("content", "summary") if item.get("type") == "reasoning" else ("content",)
    listed = [each for name in names if isinstance(found := item.get(name), list) for each in found]
    return [each for each in listed if isinstance(each, dict)]


def _call(item: Document, index: int | None = None) -> dict[str, Any]:
    kind, field = _CALLS[item["type"]]
    space, name = item.get("namespace"), item.get("name")
    if isinstance(space, str) and isinstance(name, str):
        name = joined_name(space, name)
    call = {"id": item.get("call_id"), "type": kind, kind: {"name": name, field: item.get(field) or ""}}
    return call if index is None else {"index": index, **call}


def _choices(event: Document, state: ChunkState) -> list[dict[str, Any]]:
    """What an event adds, as the choices of a chunk."""
    kind = event.get("type")
    if kind in _ENDS:
        return _end(event.get("response"), state)
    if kind == "response.output_item.added":
        return _begun_call(event, state)
    stem, _, step = str(kind).rpartition(".")
    if step not in ("delta", "done"):
        return []
    place = (event.get("output_index"), event.get("content_index", event.get("summary_index")))
    if stem in _ARGUMENTS:
        call_kind, field = _ARGUMENTS[stem]
        text = _fragment(event, step, place, state, whole=field)
        index = state.calls.get(event.get("output_index"))
        call = {"index": index, call_kind: {field: text}}
        return [_choice({"tool_calls": [call]})] if text and index is not None else []
    if stem in _TEXTS:
        text = _fragment(event, step, place, state, whole="refusal" if stem == "response.refusal" else "text")
        logprobs = event.get("logprobs") if stem == "response.output_text" and step == "delta" else None
        return [_choice({_TEXTS[stem]: text}, logprobs)] if text or logprobs else []
    return []


def _fragment(event: Document, step: str, place: tuple[Any, Any], state: ChunkState, *, whole: str) -> str:
    """The text of an event. The one that repeats it counts only if there were no fragments before."""
    if step == "done" and place in state.begun:
        return ""
    text = event.get("delta" if step == "delta" else whole)
    if len(state.begun) < _MAX_OUTPUT and _is_place(place):
        state.begun.add(place)
    return text if isinstance(text, str) else ""


def _is_place(place: tuple[Any, Any]) -> bool:
    return all(each is None or isinstance(each, int) for each in place)


def _begun_call(event: Document, state: ChunkState) -> list[dict[str, Any]]:
    item, output_index = event.get("item"), event.get("output_index")
    if not isinstance(item, dict) or item.get("type") not in _CALLS or not isinstance(output_index, int):
        return []
    index = state.calls.setdefault(output_index, len(state.calls))
    if item.get(_CALLS[item["type"]][1]):
        state.begun.add((output_index, None))
    return [_choice({"tool_calls": [_call(item, index)]})]


def _end(response: Any, state: ChunkState) -> list[dict[str, Any]]:
    """The finish reason, with the whole message if no fragment of it came."""
    found = response if isinstance(response, dict) else {}
    items = [item for item in found.get("output") or () if isinstance(item, dict)]
    message = {} if state.begun or state.calls else _message(items)
    for index, call in enumerate(message.get("tool_calls", ())):
        call["index"] = index
    has_calls = bool(state.calls) or "tool_calls" in message
    ended = {"finish_reason": _reason(found, has_calls=has_calls)}
    return [{**_choice(message), **ended, "logprobs": _logprobs(items) if message else None}]


def _choice(delta: Document, logprobs: Any = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta}
    return {**choice, "logprobs": {"content": logprobs}} if logprobs else choice


def _other_content(event: Document, size: int) -> tuple[Piece, ...]:
    """Content that a chat has no place for, such as the code of a hosted tool."""
    is_content = str(event.get("type")).endswith((".delta", ".partial_image"))
    return (Piece(index=0, other_bytes=size),) if is_content else ()
