"""The tools of a response, and which of them it may call, in the form of a chat.

Functions and custom tools have the same fields as in a chat, without the nesting. Those of a namespace are offered
under a joined name, and calls of them are split again. Tools of all other types are hosted: the provider runs them, so
a chat cannot ask for them.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec

from gateway.beyond_chat import joined_name
from gateway.errors import InvalidField
from gateway.web.apis.responses.fields import converted
from gateway.web.request_schema import MAX_TOOLS

_NESTED: Final = ("function", "custom")
_MODES: Final = ("none", "auto", "required")
_FIELDS: Final = {"function": ("name", "description", "parameters", "strict"), "custom": ("name", "description")}
_NAME = Annotated[str, msgspec.Meta(min_length=1)]
_NAMESPACE: Final = "namespace"


class _Tool(msgspec.Struct):
    type: _NAME


class _Named(msgspec.Struct):
    name: _NAME
    description: str | None = None
    namespace: str | None = None


class _Namespace(msgspec.Struct):
    name: _NAME
    tools: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools in the form of a chat, the field of each in the request, and the hosted ones with their fields."""

    entries: list[dict[str, Any]]
    fields: list[str]
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
        if converted(tool, _Tool, at).type == _NAMESPACE:
            space = converted(tool, _Namespace, at)
            for position, each in enumerate(space.tools):
                _add(found, each, f"{at}.tools[{position}]", space.name)
        else:
            _add(found, tool, at, None)
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


def namespaces_of(given: Any) -> dict[str, tuple[str, str]]:
    """The namespace and the name of each tool that has one, by the name that a chat offers."""
    spaces = [tool for tool in given or () if tool["type"] == _NAMESPACE]
    pairs = [(space["name"], tool["name"]) for space in spaces for tool in space["tools"] if "name" in tool]
    return {joined_name(*pair): pair for pair in pairs}


def repeated_tools(given: Any) -> list[Any]:
    """The tools as an answer repeats them: functions with all of their fields."""
    empty = dict.fromkeys(_FIELDS["function"])
    return [{**empty, **tool} if tool.get("type") == "function" else tool for tool in given or ()]


def _add(found: Tools, tool: Any, at: str, namespace: str | None) -> None:
    kind = converted(tool, _Tool, at).type
    if kind in _NESTED:
        found.entries.append({"type": kind, kind: _nested(tool, kind, at, namespace)})
        found.fields.append(at)
    else:
        found.hosted.setdefault(kind, f"{at}.type")


def _nested(tool: dict[str, Any], kind: str, at: str, namespace: str | None) -> dict[str, Any]:
    name = converted(tool, _Named, at).name
    nested = {field: tool[field] for field in _FIELDS[kind] if tool.get(field) is not None}
    nested["name"] = joined_name(namespace, name)
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
    if kind not in _NESTED:
        return None
    named = converted(given, _Named, at)
    return {"type": kind, kind: {"name": joined_name(named.namespace, named.name)}}
