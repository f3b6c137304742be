"""Parser of `tools`, `tool_choice` and the thinking switch.

The tools become a constraint on the answer, so that arguments are always valid under the function's schema; `strict`
has no effect.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusion_worker.constraints.spec import Constraint
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
    function: str | None = None  # the only function that may be called; None: any
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
            if self.function in (None, tool["function"]["name"])
        ]
        rules = {"syntax": syntax, "thought": thought, "required": self.required, "parallel": self.parallel}
        alternative = text and {"kind": text.kind, "value": text.value}
        return Constraint(kind="tools", value={"functions": functions, **rules, "text": alternative}, field="tools")


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
    choice, only = _parse_choice(fields)
    if choice == "required" and not offered:
        raise fields.invalid("tool_choice", "is 'required', but there are no 'tools'.")
    if only is not None and only not in names:
        raise fields.invalid("tool_choice", f"names the function {only!r}, which is not in 'tools'.")
    return Tools(
        offered=() if choice == "none" else offered,
        required=choice == "required",
        function=only,
        parallel=parallel is not False and only is None,
    )


def _parse_choice(fields: Fields) -> tuple[str, str | None]:
    """The tool choice (`auto`, `none` or `required`), and the function name if it selects a single function."""
    value = fields.raw("tool_choice")
    if value is None:
        return "auto", None
    if isinstance(value, str):
        if value not in ("auto", "none", "required"):
            raise fields.invalid("tool_choice", "must be auto, none, required, or an object that names a function.")
        return value, None
    choice = fields.object("tool_choice") or fields
    if choice.nonempty("type") != "function":
        raise choice.refuse("type", "must be 'function' for this model.")
    choice.allow_only(("type", "function"))
    choice.required("function")
    function = choice.object("function") or choice
    function.allow_only(("name",))
    return "required", function.nonempty("name")


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
