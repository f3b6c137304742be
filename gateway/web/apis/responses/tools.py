"""The tools of a response, and which of them it may call, in the form of a chat.

Functions and custom tools have the same fields as in a chat, without the nesting. Tools of all other types are hosted:
the provider runs them, so a chat cannot ask for them.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec

from gateway.errors import InvalidField
from gateway.web.apis.responses.input_items import converted
from gateway.web.request_schema import MAX_TOOLS

_NESTED: Final = ("function", "custom")
_MODES: Final = ("none", "auto", "required")
_FIELDS: Final = {"function": ("name", "description", "parameters", "strict"), "custom": ("name", "description")}
_NAME = Annotated[str, msgspec.Meta(min_length=1)]


class _Tool(msgspec.Struct):
    type: _NAME


class _Named(msgspec.Struct):
    name: _NAME
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools in the form of a chat, the position of each in the request, and the hosted ones with their fields."""

    entries: list[dict[str, Any]]
    positions: list[int]
    hosted: dict[str, str]


def tools_of(given: Any) -> Tools:
    """`given` is the field `tools`. Raises InvalidField."""
    if given is not None and not isinstance(given, list):
        raise InvalidField("'tools' must be a list.", param="tools")
    found = Tools([], [], {})
    if len(given or ()) > MAX_TOOLS:
        raise InvalidField(f"'tools' has more than {MAX_TOOLS} entries.", param="tools")
    for number, tool in enumerate(given or ()):
        at = f"tools[{number}]"
        kind = converted(tool, _Tool, at).type
        if kind in _NESTED:
            found.entries.append({"type": kind, kind: _nested(tool, kind, at)})
            found.positions.append(number)
        else:
            found.hosted.setdefault(kind, f"{at}.type")
    return found


def tool_choice_of(given: Any, tools: Tools) -> Any:
    """The choice in the form of a chat; None where it restricts nothing. Raises InvalidField."""
    if given is None:
        return None
    if isinstance(given, str):
        if given not in _MODES:
            text = f"Invalid value {given!r} at 'tool_choice'; allowed: {', '.join(_MODES)} or an object."
            raise InvalidField(text, param="tool_choice")
        return given if tools.entries else None
    if not isinstance(given, dict):
        raise InvalidField("'tool_choice' must be a text or an object.", param="tool_choice")
    choice = _allowed(given) if given.get("type") == "allowed_tools" else _choice(given, "tool_choice")
    if choice is not None and not tools.entries:
        raise InvalidField("'tool_choice' names a tool, and 'tools' offers none.", param="tool_choice")
    return choice


def repeated_tools(given: Any) -> list[Any]:
    """The tools as an answer repeats them: functions with all of their fields."""
    empty = dict.fromkeys(_FIELDS["function"])
    return [{**empty, **tool} if tool.get("type") == "function" else tool for tool in given or ()]


def _nested(tool: dict[str, Any], kind: str, at: str) -> dict[str, Any]:
    converted(tool, _Named, at)
    nested = {name: tool[name] for name in _FIELDS[kind] if tool.get(name) is not None}
    if kind == "custom" and isinstance(form := tool.get("format"), dict):
        grammar = {name: value for name, value in form.items() if name != "type"}
        nested["format"] = {"type": form.get("type"), **({"grammar": grammar} if grammar else {})}
    return nested


def _allowed(given: dict[str, Any]) -> Any:
    mode, listed = given.get("mode", "auto"), given.get("tools")
    if mode not in ("auto", "required"):
        param = "tool_choice.mode"
        raise InvalidField(f"Invalid value {mode!r} at {param!r}; allowed: auto, required.", param=param)
    if not isinstance(listed, list) or not listed:
        raise InvalidField("'tool_choice.tools' must be a list of tools.", param="tool_choice.tools")
    choices = [_choice(each, f"tool_choice.tools[{number}]") for number, each in enumerate(listed)]
    entries = [choice for choice in choices if choice is not None]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": entries}} if entries else None


def _choice(given: Any, at: str) -> dict[str, Any] | None:
    """A named tool; None for a hosted one, which the list of tools reports."""
    kind = converted(given, _Tool, at).type
    return {"type": kind, kind: {"name": converted(given, _Named, at).name}} if kind in _NESTED else None
