"""The tools that a request offers, and which of them the response may and must call.

Functions, custom tools (text input) and the older `functions`. Tools of other types are run by the target itself.
"""

from collections.abc import Iterator
from typing import Any, Final

from gateway.errors import InvalidField
from gateway.types import Tool, ToolChoice
from gateway.validation.json_schema import SchemaError
from gateway.web.output_format import check_pattern, parse_schema
from gateway.web.request_schema import ChatRequest, CustomTool, Function, is_present

_ANY_CALL: Final = ("required", "any")
_TYPES: Final = frozenset({"function", "custom"})
ANY_CALL: Final = ToolChoice()
_NAMED: Final = ("function", "custom", "tool")


def tools_of(request: ChatRequest) -> tuple[Tool, ...]:
    """The functions and custom tools. Raises InvalidField."""
    tools = tuple(_from_tools(request))
    functions = request.functions or ()
    return tools + tuple(_function(each, f"functions[{at}].parameters") for at, each in enumerate(functions))


def tool_choice_of(request: ChatRequest, tools: tuple[Tool, ...]) -> ToolChoice:
    """The rules for calls. A value that is not known restricts nothing: the target decides. Raises InvalidField for
    a tool that is not offered."""
    if not tools:
        return ANY_CALL
    parallel = request.parallel_tool_calls is not False
    given, param = request.tool_choice, "tool_choice"
    if given is None and request.functions:
        given, param = request.function_call, "function_call"
    is_required, allowed = _choice(given)
    unknown = sorted((allowed or frozenset()) - {tool.name for tool in tools})
    if unknown:
        raise InvalidField(f"{param!r} names the tool {unknown[0]!r}, which is not offered.", param=param)
    # A tool that the target runs itself may be what `required` led to: its calls are not part of the answer.
    is_seen = allowed is not None or all(entry.type in _TYPES for entry in request.tools or ())
    return ToolChoice(is_required=is_required and is_seen, allowed=allowed, parallel=parallel)


def _from_tools(request: ChatRequest) -> Iterator[Tool]:
    for at, entry in enumerate(request.tools or ()):
        param = f"tools[{at}].{entry.type}"
        if entry.type == "function" and entry.function is None:
            raise InvalidField(f"{param!r} is required for type 'function'.", param=param)
        if entry.type == "custom" and entry.custom is not None:
            yield _custom(entry.custom)
        elif entry.function is not None:
            yield _function(entry.function, f"tools[{at}].function.parameters")


def _function(function: Function, param: str) -> Tool:
    if not is_present(function.parameters):
        return Tool(name=function.name)
    schema, digest = parse_schema(function.parameters, param)
    return Tool(name=function.name, parameters=schema, digest=digest)


def _custom(tool: CustomTool) -> Tool:
    """Of the grammars, a regular expression can be checked."""
    grammar = tool.format.grammar if tool.format is not None else None
    pattern = grammar.definition if grammar is not None and grammar.syntax == "regex" else None
    is_checkable = pattern is not None and _is_checkable(pattern)
    return Tool(name=tool.name, is_custom=True, pattern=pattern if is_checkable else None)


def _is_checkable(pattern: str) -> bool:
    try:
        check_pattern(pattern)
    except SchemaError:  # another dialect; the target decides
        return False
    return True


def _choice(given: Any) -> tuple[bool, frozenset[str] | None]:
    """(whether a call is required, the names that may be called; None: any)."""
    kind = given.get("type") if isinstance(given, dict) else given
    if kind == "none":
        return False, frozenset()
    if kind in _ANY_CALL:
        return True, None
    if not isinstance(given, dict):
        return False, None
    if kind == "allowed_tools":
        nested = given.get("allowed_tools")
        allowed = nested if isinstance(nested, dict) else given
        entries = allowed.get("tools")
        names = [_name_of(entry) for entry in entries] if isinstance(entries, list) else []
        return allowed.get("mode") == "required", frozenset(name for name in names if name)
    name = _name_of(given) if kind in (None, *_NAMED) else None
    return (True, frozenset({name})) if name else (False, None)


def _name_of(entry: Any) -> str | None:
    """The name in `{"type": "function", "function": {"name": ...}}`, or without the nesting."""
    if not isinstance(entry, dict):
        return None
    nested = entry.get(str(entry.get("type") or "function"))
    name = (nested if isinstance(nested, dict) else entry).get("name")
    return name if isinstance(name, str) and name else None
