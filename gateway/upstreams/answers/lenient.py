"""Reads completions whose fields have other types than OpenAI's, as leniently as OpenAI's clients do.

OpenAI's client for Python reads bodies with `json.loads` and does not validate fields. This module accepts the same
JSON and converts what applications could not use: text in parts, arguments as objects, tool calls without an index.
It is the slow path: a completion that has OpenAI's types is never parsed here, and its bytes are forwarded unchanged.
"""

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any, Final

import orjson

TEXTS: Final = ("content", "refusal", "reasoning_content", "reasoning")  # that arrive in fragments
_THOUGHTS: Final = ("thinking", "reasoning")


class ChunkState:
    """What the chunks of a stream leave open. `calls` and `begun` are those of the stream of a response: the number of
    the call at each position of the output, and the positions whose texts have begun.

    Numbers the tool calls that carry no index: a new id, or a name without an id, begins a new call. Joins characters
    that a server cut into two surrogates, one at the end of a chunk and one at the beginning of the next.
    """

    def __init__(self) -> None:
        self._last: dict[int, tuple[int, Any]] = {}  # by choice: index and id of its last call
        self._halves: dict[tuple[int, str], str] = {}  # by choice and field
        self.calls: dict[Any, int] = {}
        self.begun: set[tuple[Any, Any]] = set()

    def index_of(self, choice: int, call: dict[str, Any]) -> int:
        """The index of a call, or of the call that this fragment continues."""
        number, last_id = self._last.get(choice, (-1, None))
        call_id = call.get("id")
        function = call.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if number < 0 or (call_id and call_id != last_id) or (name and not call_id):
            number += 1
        self._last[choice] = (number, call_id or last_id)
        return number

    def joined(self, choice: int, field: str, text: str) -> str:
        """The text behind the half of a character that the last chunk ended with; without its own last half."""
        half = self._halves.pop((choice, field), "")
        if half and "\udc00" <= text[:1] <= "\udfff":
            text = half + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._halves[choice, field] = text[-1]
            return text[:-1]
        return text


def load(data: bytes) -> Any:
    """The document, as `json.loads` reads it: with NaN, a byte order mark, UTF-16 and lone surrogates. Raises
    ValueError or RecursionError."""
    return json.loads(data)


def is_json(data: bytes) -> bool:
    """Whether `load` can read it."""
    try:
        load(data)
    except (ValueError, RecursionError):
        return False
    return True


def dump(document: Any) -> bytes:
    """Standard JSON: NaN and infinities become null, lone surrogates U+FFFD. Integers of any size keep their digits."""
    try:
        return orjson.dumps(document)
    except TypeError:  # an integer beyond 64 bits, or a lone surrogate
        return json.dumps(_standard(document), separators=(",", ":")).encode()


def normalise(document: dict[str, Any], state: ChunkState | None) -> dict[str, Any]:
    """The same completion or chunk with OpenAI's types in all fields that the gateway reads; the others stay.

    `state` is that of the stream; None for a document that stands alone.
    """
    choices = document.get("choices")
    found = choices if isinstance(choices, list) else ()
    kept = [_choice(position, choice, state) for position, choice in enumerate(found) if isinstance(choice, dict)]
    return {**document, "choices": kept}


def body_of(choice: dict[str, Any], *, is_chunk: bool) -> dict[str, Any]:
    """The content of a choice. As in OpenAI's clients, it is the `delta` in a chunk of a stream and the `message` in a
    whole completion; the other one counts only if that is missing."""
    for name in ("delta", "message") if is_chunk else ("message", "delta"):
        body = choice.get(name)
        if isinstance(body, dict):
            return body
    return {}


def thought_of(body: Mapping[str, Any]) -> str:
    """The reasoning that a target reports; some report it twice."""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(given := body.get(name), str) and given:
            return given
    return ""


def index_of(entry: dict[str, Any], position: int) -> int:
    """The index of a choice or a call; its position if it has none, or an impossible one."""
    index = _number(entry.get("index"))
    return position if index is None else int(index)


def call_of(call: Mapping[str, Any]) -> tuple[str, str, bool]:
    """The name and the arguments or input of a call, or of a fragment of one, and whether its tool is a custom one.
    Values of other types count as absent, except arguments, which are written as JSON."""
    is_custom = isinstance(call.get("custom"), dict)
    given = call.get("custom" if is_custom else "function")
    function = given if isinstance(given, dict) else {}
    name, text = function.get("name"), function.get("input" if is_custom else "arguments")
    if text and not isinstance(text, str):
        text = dump(text).decode()
    return name if isinstance(name, str) else "", text or "", is_custom


def count_of(value: Any) -> int | None:
    """A number of tokens, given as a number or as text."""
    number = _number(value)
    return None if number is None else int(number)


def _choice(position: int, choice: dict[str, Any], state: ChunkState | None) -> dict[str, Any]:
    number = index_of(choice, position)
    if state is not None and not isinstance(choice.get("delta"), dict) and isinstance(choice.get("message"), dict):
        choice = {**choice, "delta": choice["message"], "message": None}  # a whole completion, sent as one event
    result = {**choice, "index": number, "finish_reason": _finish_reason(choice.get("finish_reason"))}
    for key in ("delta", "message"):
        body = choice.get(key)
        if isinstance(body, dict):
            result[key] = _body(body, number, state if key == "delta" else None)
        elif key in choice:
            result[key] = None
    if result.get("delta") is None and result.get("message") is None:
        result["delta"] = {}
    return result


def _finish_reason(reason: Any) -> str | None:
    """The reason as text. To applications, any value that is not empty says that the choice has ended."""
    if isinstance(reason, dict):
        reason = reason.get("type") or reason.get("reason") or bool(reason)
    if isinstance(reason, list):
        reason = next((each for each in reason if isinstance(each, str)), bool(reason))
    if isinstance(reason, str):
        return reason
    return "stop" if reason else None


def _body(body: dict[str, Any], choice: int, state: ChunkState | None) -> dict[str, Any]:
    result = dict(body)
    content = body.get("content")
    if not isinstance(content, str | None):
        text, thought = _texts(content)
        result["content"] = text
        if thought and not body.get("reasoning_content"):
            result["reasoning_content"] = thought
    if not isinstance(body.get("refusal"), str | None):
        result["refusal"] = None
    if state is not None:
        for field in TEXTS:
            if isinstance(text := result.get(field), str):
                result[field] = state.joined(choice, field, text)
    if "tool_calls" in body:
        found = body["tool_calls"]
        listed = found if isinstance(found, list) else [found]
        result["tool_calls"] = [_call(call, choice, state) for call in listed if isinstance(call, dict)] or None
    return result


def _texts(content: Any) -> tuple[str | None, str]:
    """The text and the reasoning of a content that is not a string, for example of Mistral's list of parts."""
    parts = content if isinstance(content, list) else [content]
    texts: list[str] = []
    thoughts: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and part.get("type") in _THOUGHTS:
            thoughts.extend(text for text in _texts(part.get(part["type"]) or part.get("text"))[:1] if text)
        elif isinstance(part, dict) and (text := _text_of_part(part)) is not None:
            texts.append(text)
        elif isinstance(part, bool | int | float):
            texts.append(json.dumps(part))
        elif isinstance(part, list):
            nested = _texts(part)
            texts.append(nested[0] or "")
            thoughts.append(nested[1])
    return "".join(texts) if texts or not parts else None, "".join(thoughts)


def _text_of_part(part: dict[str, Any]) -> str | None:
    """The text of one part, also nested: `{"text": {"value": "hi"}}`, or named `content`; None for any other part."""
    for name in ("text", "content", "value"):
        if isinstance(value := part.get(name), dict | list):
            return _texts(value)[0]
        if isinstance(value, str):
            return value
    return None


def _call(call: dict[str, Any], choice: int, state: ChunkState | None) -> dict[str, Any]:
    """In a complete message, calls are numbered by their position."""
    index = _number(call.get("index"))
    result = {name: value for name, value in call.items() if name != "index"}
    if index is not None:
        result["index"] = int(index)
    elif state is not None:
        result["index"] = state.index_of(choice, call)
    function = call.get("function")
    if not isinstance(function, dict):
        return result | ({"function": None} if "function" in call else {})
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str | None):
        name = None
    if not isinstance(arguments, str | None):
        arguments = dump(arguments).decode()
    if arguments and state is not None:
        arguments = state.joined(choice, f"arguments of {result['index']}", arguments)
    changed = {key: value for key, value in (("name", name), ("arguments", arguments)) if key in function}
    return result | {"function": {**function, **changed}}


def _number(value: Any) -> float | int | None:
    """An integer, also written as a float or as text; None for anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return value if value >= 0 else None
    return value if isfinite(value) and value >= 0 else None


def _standard(value: Any) -> Any:
    if isinstance(value, dict):
        return {_standard(key): _standard(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_standard(each) for each in value]
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return None if isinstance(value, float) and not isfinite(value) else value
