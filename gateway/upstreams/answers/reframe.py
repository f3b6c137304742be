"""Converts a whole completion to the chunks of a stream, and chunks to a whole completion, for targets that answer in
the other form than the one requested."""

from collections.abc import Iterable
from typing import Any, Final

from gateway.upstreams.answers import lenient

_HEAD: Final = ("id", "created", "model", "system_fingerprint", "service_tier")
_TEXTS: Final = ("content", "refusal", "reasoning_content", "reasoning")


def as_chunks(data: bytes) -> list[bytes]:
    """The chunks of a stream with the content of a whole completion: one with each choice's message, one with the
    finish reasons, and one with the usage."""
    completion = lenient.load(data)
    head = {**_head_of(completion), "object": "chat.completion.chunk"}
    choices = completion["choices"]
    messages = [_as_delta(position, choice) for position, choice in enumerate(choices)]
    ends = [
        {"index": choice.get("index", position), "delta": {}, "finish_reason": choice.get("finish_reason")}
        for position, choice in enumerate(choices)
    ]
    documents = [{**head, "choices": messages}, {**head, "choices": ends}]
    if completion.get("usage"):
        documents.append({**head, "choices": [], "usage": completion["usage"]})
    return [lenient.dump(document) for document in documents]


def as_whole(chunks: Iterable[bytes]) -> bytes:
    """The whole completion with the content of all chunks of a stream."""
    head: dict[str, Any] = {}
    messages: dict[int, dict[str, Any]] = {}
    usage: Any = None
    for document in map(lenient.load, chunks):
        head = {**_head_of(document), **head}
        usage = document.get("usage") or usage
        for position, choice in enumerate(document["choices"]):
            index = choice.get("index", position)
            merged = messages.setdefault(index, {"index": index, "message": {"role": "assistant", "content": None}})
            _merge_choice(merged, choice)
    for merged in messages.values():
        merged.setdefault("finish_reason", None)
    whole = {**head, "object": "chat.completion", "choices": [messages[index] for index in sorted(messages)]}
    return lenient.dump(whole if usage is None else {**whole, "usage": usage})


def _head_of(document: dict[str, Any]) -> dict[str, Any]:
    return {name: document[name] for name in _HEAD if document.get(name) is not None}


def _as_delta(position: int, choice: dict[str, Any]) -> dict[str, Any]:
    delta = {"role": "assistant", **(choice.get("message") or {})}
    if isinstance(delta.get("tool_calls"), list):
        delta["tool_calls"] = [{"index": number, **call} for number, call in enumerate(delta["tool_calls"])]
    chunk = {"index": choice.get("index", position), "delta": delta, "finish_reason": None}
    return chunk if choice.get("logprobs") is None else {**chunk, "logprobs": choice["logprobs"]}


def _merge_choice(merged: dict[str, Any], choice: dict[str, Any]) -> None:
    if choice.get("finish_reason"):
        merged["finish_reason"] = choice["finish_reason"]
    logprobs = choice.get("logprobs")
    if isinstance(logprobs, dict):
        collected = merged.setdefault("logprobs", {})
        for name, tokens in logprobs.items():
            collected[name] = [*(collected.get(name) or ()), *tokens] if isinstance(tokens, list) else tokens
    _merge_message(merged["message"], choice.get("delta") or choice.get("message") or {})


def _merge_message(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name in _TEXTS and isinstance(value, str):
            message[name] = (message.get(name) or "") + value
        elif name == "function_call" and isinstance(value, dict):
            message[name] = _merged_function(message.get(name) or {}, value)
        elif name == "tool_calls":
            calls = message.setdefault("tool_calls", [])
            for fragment in value or ():
                _merge_call(calls, fragment)
        elif value is not None and name != "role":
            message[name] = value


def _merge_call(calls: list[dict[str, Any]], fragment: dict[str, Any]) -> None:
    """Fragments with the same index are one call. The index is not part of a whole completion."""
    number = min(fragment.get("index", len(calls)), len(calls))
    if number == len(calls):
        calls.append({"type": "function"})
    call = calls[number]
    for name, value in fragment.items():
        if name == "function" and isinstance(value, dict):
            call[name] = _merged_function(call.get(name) or {}, value)
        elif name != "index" and value is not None:
            call[name] = value


def _merged_function(function: dict[str, Any], fragment: dict[str, Any]) -> dict[str, Any]:
    merged = {"name": function.get("name") or fragment.get("name") or "", "arguments": function.get("arguments") or ""}
    merged["arguments"] += fragment.get("arguments") or ""
    return merged
