"""Converts a whole completion to the chunks of a stream, and chunks to a whole completion, for targets that answer in
the other form than the one requested."""

from typing import Any, Final

from gateway.upstreams.answers import lenient

_HEAD: Final = ("id", "created", "model", "system_fingerprint", "service_tier")
_FUNCTIONS: Final = {"function": "arguments", "custom": "input"}  # and the text that arrives in fragments


def as_chunks(data: bytes) -> list[bytes]:
    """The chunks of a stream with the content of a whole completion: one with each choice's message, one with the
    finish reasons, and one with the usage."""
    completion = lenient.load(data)
    head = {**_head_of(completion), "object": "chat.completion.chunk"}
    choices = completion["choices"]
    messages = [_as_delta(position, choice) for position, choice in enumerate(choices)]
    ends = [
        {"index": lenient.index_of(choice, position), "delta": {}, "finish_reason": choice.get("finish_reason")}
        for position, choice in enumerate(choices)
    ]
    documents = [{**head, "choices": messages}, {**head, "choices": ends}]
    if completion.get("usage"):
        documents.append({**head, "choices": [], "usage": completion["usage"]})
    return [lenient.dump(document) for document in documents]


class ChunkMerger:
    """Merges the chunks of a stream, as they arrive, to a whole completion. Texts are joined once, at the end."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self._usage: Any = None

    def add(self, chunk: bytes) -> None:
        """Merge the next chunk. Raises ValueError or RecursionError if it is not JSON."""
        document = lenient.load(chunk)
        self._head = {**_head_of(document), **self._head}
        self._usage = document.get("usage") or self._usage
        for position, choice in enumerate(document["choices"]):
            index = lenient.index_of(choice, position)
            known = self._choices.get(index)
            if known is None:
                known = self._choices[index] = _Choice()
            known.add(choice)

    def whole(self) -> bytes:
        """The completion."""
        choices = [{"index": index, **self._choices[index].whole()} for index in sorted(self._choices)]
        document = {**self._head, "object": "chat.completion", "choices": choices}
        return lenient.dump(document if self._usage is None else {**document, "usage": self._usage})


class _Choice:
    def __init__(self) -> None:
        self._finish_reason: Any = None
        self._logprobs: dict[str, Any] | None = None
        self._fields: dict[str, Any] = {"role": "assistant", "content": None}
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, dict[str, Any]] | None = None
        self._function: _Function | None = None

    def add(self, choice: dict[str, Any]) -> None:
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict):
            self._add_logprobs(logprobs)
        for name, value in lenient.body_of(choice, is_chunk=True).items():
            if name in lenient.TEXTS and isinstance(value, str):
                self._fields.setdefault(name, None)
                self._texts.setdefault(name, []).append(value)
            elif name == "function_call" and isinstance(value, dict):
                self._function = self._function or _Function("arguments")
                self._function.add(value)
            elif name == "tool_calls":
                self._add_calls(value or [])
            elif value is not None and name != "role":
                self._fields[name] = value

    def whole(self) -> dict[str, Any]:
        message = {**self._fields, **{name: "".join(texts) for name, texts in self._texts.items()}}
        if self._calls is not None:
            message["tool_calls"] = [_joined(self._calls[index]) for index in sorted(self._calls)]
        if self._function is not None:
            message["function_call"] = self._function.whole()
        result = {"message": message, "finish_reason": self._finish_reason}
        return result if self._logprobs is None else {**result, "logprobs": self._logprobs}

    def _add_logprobs(self, logprobs: dict[str, Any]) -> None:
        self._logprobs = collected = {} if self._logprobs is None else self._logprobs
        for name, tokens in logprobs.items():
            known = collected.get(name)
            if isinstance(known, list) and isinstance(tokens, list):
                known.extend(tokens)
            else:
                collected[name] = tokens

    def _add_calls(self, fragments: list[dict[str, Any]]) -> None:
        """Fragments with the same index are one call. The index is not part of a whole completion."""
        self._calls = calls = {} if self._calls is None else self._calls
        for fragment in fragments:
            call = calls.setdefault(lenient.index_of(fragment, len(calls)), {"type": "function"})
            for name, value in fragment.items():
                if name in _FUNCTIONS and isinstance(value, dict):
                    known = call.get(name)
                    if not isinstance(known, _Function):
                        known = call[name] = _Function(_FUNCTIONS[name])
                    known.add(value)
                elif name != "index" and value is not None:
                    call[name] = value


class _Function:
    """The name and the text of a call, whose key is `text_key`."""

    def __init__(self, text_key: str) -> None:
        self._text_key = text_key
        self._name = ""
        self._texts: list[str] = []

    def add(self, fragment: dict[str, Any]) -> None:
        name, text = fragment.get("name"), fragment.get(self._text_key)
        if isinstance(name, str):
            self._name = self._name or name
        if text is not None:
            self._texts.append(text if isinstance(text, str) else lenient.dump(text).decode())

    def whole(self) -> dict[str, str]:
        return {"name": self._name, self._text_key: "".join(self._texts)}


def _joined(call: dict[str, Any]) -> dict[str, Any]:
    return {name: value.whole() if isinstance(value, _Function) else value for name, value in call.items()}


def _head_of(document: dict[str, Any]) -> dict[str, Any]:
    return {name: document[name] for name in _HEAD if document.get(name) is not None}


def _as_delta(position: int, choice: dict[str, Any]) -> dict[str, Any]:
    delta = {"role": "assistant", **lenient.body_of(choice, is_chunk=False)}
    if isinstance(delta.get("tool_calls"), list):
        calls = enumerate(delta["tool_calls"])
        delta["tool_calls"] = [{**call, "index": lenient.index_of(call, number)} for number, call in calls]
    chunk = {"index": lenient.index_of(choice, position), "delta": delta, "finish_reason": None}
    return chunk if choice.get("logprobs") is None else {**chunk, "logprobs": choice["logprobs"]}
