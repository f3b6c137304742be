"""Writes the body of one call to a target with responses: the request as the client sent it, which the target must not
store."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw

from gateway.beyond_chat import hosted_name
from gateway.types import Call

_encode: Final = msgspec.json.encode
_read: Final = msgspec.json.decode
# Of the gateway's store, or without effect in a request for one answer.
_OURS: Final = ("previous_response_id", "conversation", "background", "background_options", "n")
_NESTED: Final = {"reasoning_effort": ("reasoning", "effort"), "verbosity": ("text", "verbosity")}
_LOGPROBS: Final = "message.output_text.logprobs"


def write_response(fields: dict[str, Raw], call: Call) -> None:
    """Nothing is stored at the target: the gateway answers for what it keeps itself."""
    for name in _OURS:
        fields.pop(name, None)
    fields["store"] = _raw(False)
    for name in _NESTED.keys() & set(call.ignored):
        _leave_out_nested(fields, *_NESTED[name])
    if hosted := call.query.parameters.hosted.keys() & set(call.ignored):
        _leave_out_hosted(fields, lambda kind: kind in hosted)
    if call.wants_logprobs:
        fields["include"] = _raw([*(_value(fields, "include") or []), _LOGPROBS])
    if call.validation_error is not None:
        note = f"An earlier answer to this was rejected: {call.validation_error}. Answer again so that it fits."
        given = _value(fields, "input") or []
        items = [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given
        fields["input"] = _raw([*items, {"type": "message", "role": "user", "content": note}])


def _leave_out_nested(fields: dict[str, Raw], outer: str, inner: str) -> None:
    if isinstance(given := _value(fields, outer), dict):
        given.pop(inner, None)
        fields[outer] = _raw(given)


def _leave_out_hosted(fields: dict[str, Raw], is_left_out: Callable[[str], bool]) -> None:
    """Tools that the policy ignores, their items, and a choice of them."""
    tools = [tool for tool in _value(fields, "tools") or () if not is_left_out(tool["type"])]
    choice, given = _value(fields, "tool_choice"), _value(fields, "input")
    if not tools or (isinstance(choice, dict) and is_left_out(str(choice.get("type")))):
        fields.pop("tool_choice", None)
    fields.pop("tools", None)
    if tools:
        fields["tools"] = _raw(tools)
    if isinstance(given, list):
        fields["input"] = _raw([item for item in given if not is_left_out(hosted_name(str(item.get("type"))))])


def _value(fields: dict[str, Raw], name: str) -> Any:
    return _read(fields[name]) if name in fields else None


def _raw(value: Any) -> Raw:
    return Raw(_encode(value))
