"""The input of a decision as one text: messages, calls of tools and their outputs, in order."""

from collections.abc import Sequence, Set
from typing import Any, Final

from twolane.process import exact_json
from twolane.process.decisions.members import DecisionError, Members, Problem, at

MAX_LEVELS: Final = 32  # of containers in one `input_json`
MAX_VALUES: Final = 10_000
MAX_JSON_BYTES: Final = 256 * 1024  # compact and in UTF-8
_TEXT: Final = frozenset({"input_text"})
_PARTS_OF: Final = {
    "user": frozenset({"input_text", "input_json"}),
    "developer": _TEXT,
    "system": _TEXT,
    "assistant": frozenset({"output_text", "refusal"}),
}
_CALLS: Final = {"function_call": "arguments", "custom_tool_call": "input"}
_OUTPUTS: Final = {"function_call_output": "function_call", "custom_tool_call_output": "custom_tool_call"}
_CALL: Final = frozenset({"type", "call_id", "name", "id", "namespace", "status"})
_OUTPUT: Final = frozenset({"type", "call_id", "output", "id", "status"})
_STATUS: Final = ("in_progress", "completed", "incomplete")


def input_text(items: Sequence[Any]) -> str:
    """The items as one text. Raises DecisionError."""
    if not items:
        raise DecisionError("'input' must not be empty.", param="input")
    calls: dict[tuple[str, str], str] = {}  # (type, id) -> the tool
    texts = [_item(each, at("input", index), calls) for index, each in enumerate(items)]
    is_alone = len(texts) == 1 and texts[0][0] == "user"
    return texts[0][1] if is_alone else "\n".join(f"{source}: {text}" for source, text in texts)


def text_of_parts(parts: Sequence[Any], path: str, allowed: Set[str]) -> str:
    """Parts of a content as one text, a line each. Raises DecisionError for one that is not of an `allowed` type."""
    if not parts:
        raise DecisionError(f"{path!r} must not be empty.", param=path)
    return "\n".join(_part(each, at(path, index), allowed) for index, each in enumerate(parts))


def _item(given: Any, path: str, calls: dict[tuple[str, str], str]) -> tuple[str, str]:
    """(who or what it is from, text)."""
    members = Members.of(given, path)
    kind = members.one_of("type", ("message", *_CALLS, *_OUTPUTS)) or "message"
    if kind in _CALLS:
        return _call(members, kind, calls)
    if kind in _OUTPUTS:
        return _output(members, kind, calls)
    role = members.one_of("role", tuple(_PARTS_OF), required=True)
    members.allow_only({"type", "role", "content"} | ({"phase"} if role == "assistant" else set()))
    members.one_of("phase", ("commentary", "final_answer"))
    return role, _content(members, "content", _PARTS_OF[role])


def _call(members: Members, kind: str, calls: dict[tuple[str, str], str]) -> tuple[str, str]:
    given = _CALLS[kind]
    members.allow_only(_CALL | {given})
    _check_item(members)
    name: str = members.text("name", required=True)
    calls[kind, members.text("call_id", required=True)] = name
    return "assistant", f"calls {name}: {members.text(given, required=True)}"


def _output(members: Members, kind: str, calls: dict[tuple[str, str], str]) -> tuple[str, str]:
    members.allow_only(_OUTPUT)
    _check_item(members)
    call_id = members.text("call_id", required=True)
    name = calls.get((_OUTPUTS[kind], call_id))
    if name is None:
        param = members.param("call_id")
        raise DecisionError(f"{param!r} is not the id of an earlier {_OUTPUTS[kind]}: {call_id!r}.", param=param)
    return f"output of {name}", _content(members, "output", _TEXT)


def _check_item(members: Members) -> None:
    for name in ("id", "namespace"):
        members.text(name)
    members.one_of("status", _STATUS)


def _content(members: Members, name: str, allowed: Set[str]) -> str:
    content, path = members.required(name), members.param(name)
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise members.mistyped(name, "a string or an array of parts")
    return text_of_parts(content, path, allowed)


def _part(given: Any, path: str, allowed: Set[str]) -> str:
    members = Members.of(given, path)
    kind = members.text("type", required=True)
    if kind == "input_image":
        message = f"{path!r} is an image; decisions are made about text and JSON only."
        raise DecisionError(message, param=path, problem=Problem.UNSUPPORTED)
    members.one_of("type", tuple(sorted(allowed)))
    if kind == "input_json":
        members.allow_only({"type", "data"})
        return _json(members)
    own = "refusal" if kind == "refusal" else "text"
    members.allow_only({"type", own} | ({"prompt_cache_breakpoint"} if kind == "input_text" else set()))
    breakpoint_ = members.object("prompt_cache_breakpoint")
    if breakpoint_ is not None:
        breakpoint_.allow_only({"mode"})
        breakpoint_.one_of("mode", ("explicit",), required=True)
    text: str = members.text(own, required=True)
    return text


def _json(members: Members) -> str:
    data, path = members.required("data"), members.param("data")
    is_objects = isinstance(data, list) and all(isinstance(each, dict) for each in data)
    if not isinstance(data, dict) and not is_objects:
        raise members.mistyped("data", "an object or an array of objects")
    _check_size(data, path)
    try:
        written = exact_json.dumps(data)
    except exact_json.JsonError as fault:
        raise DecisionError(f"{path!r} cannot be written as JSON: {fault}.", param=path) from None
    if len(written) > MAX_JSON_BYTES:
        text = f"{path!r} has {len(written)} bytes as compact JSON; at most {MAX_JSON_BYTES} are allowed."
        raise DecisionError(text, param=path)
    return written.decode()


def _check_size(data: Any, path: str) -> None:
    """Level by level, without recursion: the value is untrusted."""
    level, values, depth = [data], 0, 0
    while level:
        values += len(level)
        if values > MAX_VALUES:
            raise DecisionError(f"{path!r} has more than {MAX_VALUES} values.", param=path)
        containers = [each for each in level if isinstance(each, dict | list)]
        depth += bool(containers)
        if depth > MAX_LEVELS:
            raise DecisionError(f"{path!r} is nested more than {MAX_LEVELS} levels deep.", param=path)
        level = [inner for each in containers for inner in (each.values() if isinstance(each, dict) else each)]
