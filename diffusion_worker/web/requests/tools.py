"""Parser of `tools`, `tool_choice` and the thinking switch.

The tools become a constraint on the answer, so that arguments are always valid under the function's schema; `strict`
has no effect.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from diffusion_worker.constraints.spec import Constraint, WhiteSpace
from diffusion_worker.constraints.tool_calls import NO_ARGUMENTS, Syntax, Thought
from diffusion_worker.text.chat_template import TemplateFeatures
from diffusion_worker.web.requests.fields import Fields
from diffusion_worker.web.requests.schemas import check_schema

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_EFFORTS = {"none": False, "minimal": False, "low": True, "medium": True, "high": True, "xhigh": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The offered tools as OpenAI objects, and the tool choice; no tools with `tool_choice: none`."""

    offered: tuple[Mapping[str, Any], ...] = ()
    required: bool = False  # the answer must contain a tool call
    allowed: frozenset[str] | None = None  # the functions that may be called; None: any
    parallel: bool = True  # several calls are allowed

    def constraint(self, syntax: Syntax, thought: Thought, text: Constraint | None) -> Constraint:
        """The constraint of an answer with these tools. `text` constrains an answer without a call; None: any text."""
        functions = [
            {
                "name": tool["function"]["name"],
                "parameters": tool["function"].get("parameters", NO_ARGUMENTS),
                "field": f"tools[{at}].function.parameters",
            }
            for at, tool in enumerate(self.offered)
            if self.allowed is None or tool["function"]["name"] in self.allowed
        ]
        rules = {"syntax": syntax, "thought": thought, "required": self.required, "parallel": self.parallel}
        alternative = text and {"kind": text.kind, "value": text.value, "white_space": text.white_space}
        return Constraint(
            kind="tools",
            value={"functions": functions, **rules, "text": alternative},
            white_space=text.white_space if text else WhiteSpace.BOUNDED,
            field="tools",
        )


NO_TOOLS = Tools()


def parse_tools(fields: Fields) -> Tools:
    """The tools and tool choice of a body. Raises InvalidRequest."""
    parallel = fields.boolean("parallel_tool_calls")
    entries = () if fields.raw("tools") is None else fields.objects("tools")
    if len(entries) > MAX_TOOLS:
        raise fields.invalid("tools", f"must not contain more than {MAX_TOOLS} tools.")
    offered = tuple(map(_parse_tool, entries))
    names = {tool["function"]["name"] for tool in offered}
    if len(names) < len(offered):
        raise fields.invalid("tools", "must not contain the same function name twice.")
    choice = _parse_choice(fields)
    if choice.mode == "required" and not offered:
        raise fields.invalid("tool_choice", "is 'required', but there are no 'tools'.")
    for name in sorted((choice.allowed or frozenset()) - names):
        raise fields.invalid("tool_choice", f"names the function {name!r}, which is not in 'tools'.")
    return Tools(
        offered=() if choice.mode == "none" else offered,
        required=choice.mode == "required",
        allowed=choice.allowed,
        parallel=parallel is not False and not choice.is_single,
    )


class _Choice(NamedTuple):
    """`mode` is `auto`, `none` or `required`; `is_single`: exactly one call, of a named function."""

    mode: str
    allowed: frozenset[str] | None = None
    is_single: bool = False


def _parse_choice(fields: Fields) -> _Choice:
    value = fields.raw("tool_choice")
    if value is None:
        return _Choice("auto")
    if isinstance(value, str):
        if value not in ("auto", "none", "required"):
            raise fields.invalid("tool_choice", "must be auto, none, required, or an object that names a function.")
        return _Choice(value)
    choice = fields.object("tool_choice") or fields
    kind = choice.nonempty("type")
    if kind == "allowed_tools":
        return _parse_allowed(choice)
    if kind != "function":
        raise choice.refuse("type", "must be 'function' or 'allowed_tools' for this model.")
    choice.allow_only(("type", "function"))
    choice.required("function")
    function = choice.object("function") or choice
    function.allow_only(("name",))
    return _Choice("required", frozenset((function.nonempty("name"),)), is_single=True)


def _parse_allowed(choice: Fields) -> _Choice:
    """A subset of the tools, in mode `auto` or `required`."""
    choice.allow_only(("type", "allowed_tools"))
    choice.required("allowed_tools")
    allowed = choice.object("allowed_tools") or choice
    allowed.allow_only(("mode", "tools"))
    mode = allowed.nonempty("mode")
    if mode not in ("auto", "required"):
        raise allowed.invalid("mode", "must be auto or required.")
    names: set[str] = set()
    for entry in allowed.objects("tools"):
        entry.allow_only(("type", "function"))
        entry.required("function")
        names.add((entry.object("function") or entry).nonempty("name"))
    if not names:
        raise allowed.invalid("tools", "must contain at least one tool.")
    return _Choice(mode, frozenset(names))


def parse_thinking(fields: Fields, features: TemplateFeatures) -> bool | None:
    """Whether to think before answering; None: default of the chat template. Raises InvalidRequest.

    Set by OpenAI's `reasoning_effort`, reduced to on and off, or by vLLM's `chat_template_kwargs`."""
    effort = fields.text("reasoning_effort")
    options = fields.object("chat_template_kwargs")
    if effort is not None and effort not in _EFFORTS:
        raise fields.invalid("reasoning_effort", f"must be one of {', '.join(_EFFORTS)}.")
    by_effort = None if effort is None else _EFFORTS[effort]
    options = options or Fields({}, "chat_template_kwargs")
    options.allow_only(("enable_thinking",))
    switch = options.boolean("enable_thinking")
    if not features.thinking:
        for name, is_on in (("reasoning_effort", by_effort), ("chat_template_kwargs", switch)):
            if is_on:
                raise fields.refuse(name, "is not supported by this model.")
        return None
    if None not in (switch, by_effort) and switch is not by_effort:
        raise options.invalid("enable_thinking", "contradicts 'reasoning_effort'.")
    return by_effort if switch is None else switch


def _parse_tool(fields: Fields) -> dict[str, Any]:
    fields.allow_only(("type", "function"))
    if fields.nonempty("type") != "function":
        raise fields.refuse("type", "must be 'function' for this model.")
    fields.required("function")
    function = fields.object("function") or fields
    function.allow_only(("name", "description", "parameters", "strict"))
    name = function.nonempty("name")
    if not _NAME.fullmatch(name):
        raise function.invalid("name", "must be 1 to 64 letters, digits, '_' or '-'.")
    definition: dict[str, Any] = {"name": name, "description": function.text("description") or ""}
    function.boolean("strict")
    if function.object("parameters") is not None:
        check_schema(function, "parameters")
        definition["parameters"] = function.raw("parameters")
    return {"type": "function", "function": definition}
