"""The tools that a request offers, and its switch for thinking: what the chat template is asked for beside the turns.

Tools are best effort: they are shown to the model, and what it calls is read back; nothing forces it to call, or to
keep to a schema. So `tool_choice` can be `auto` or `none`, and what would need a guarantee is refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusion_worker.text.chat_template import Abilities
from diffusion_worker.web.fields import Fields
from diffusion_worker.web.schemas import check_schema

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_EFFORTS = {"none": False, "minimal": False, "low": True, "medium": True, "high": True, "xhigh": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What may be called: OpenAI's objects, as templates read them; none with `tool_choice: none`."""

    offered: tuple[Mapping[str, Any], ...] = ()
    most_calls: int | None = None  # in one answer; None: as many as the model likes


NO_TOOLS = Tools()


def parse_tools(fields: Fields, abilities: Abilities) -> Tools:
    """Raises a BadAsk naming the field, an Unsupported where the checkpoint knows no tools."""
    choice = fields.raw("tool_choice")
    if choice not in (None, "auto", "none"):
        raise fields.refuse("tool_choice", "must be 'auto' or 'none' for this model.")
    parallel = fields.flag("parallel_tool_calls")
    entries = () if fields.raw("tools") is None else fields.parts("tools")
    if entries and not abilities.tools:
        raise fields.refuse("tools", "is not supported by this model.")
    if len(entries) > MAX_TOOLS:
        raise fields.invalid("tools", f"must not hold more than {MAX_TOOLS} tools.")
    offered = tuple(map(_parse_tool, entries))
    if len({tool["function"]["name"] for tool in offered}) < len(offered):
        raise fields.invalid("tools", "must not name a function twice.")
    return Tools(offered=() if choice == "none" else offered, most_calls=1 if parallel is False else None)


def parse_thinking(fields: Fields, abilities: Abilities) -> bool | None:
    """Whether to think before answering: OpenAI's `reasoning_effort`, of which a template's switch knows only off and
    on, or vLLM's `chat_template_kwargs`. None leaves it to the template. Raises a BadAsk naming the field."""
    effort = fields.text("reasoning_effort")
    options = fields.part("chat_template_kwargs")
    for name in ("reasoning_effort", "chat_template_kwargs"):
        if fields.raw(name) and not abilities.thinking:
            raise fields.refuse(name, "is not supported by this model.")
    if effort is not None and effort not in _EFFORTS:
        raise fields.invalid("reasoning_effort", f"must be one of {', '.join(_EFFORTS)}.")
    by_effort = None if effort is None else _EFFORTS[effort]
    if options is None:
        return by_effort
    options.only(("enable_thinking",))
    switch = options.flag("enable_thinking")
    if None not in (switch, by_effort) and switch is not by_effort:
        raise options.invalid("enable_thinking", "contradicts 'reasoning_effort'.")
    return by_effort if switch is None else switch


def _parse_tool(fields: Fields) -> dict[str, Any]:
    fields.only(("type", "function"))
    if fields.nonempty("type") != "function":
        raise fields.refuse("type", "must be 'function' for this model.")
    fields.required("function")
    function = fields.part("function") or fields
    function.only(("name", "description", "parameters", "strict"))
    name = function.nonempty("name")
    if not _NAME.fullmatch(name):
        raise function.invalid("name", "must be 1 to 64 letters, digits, '_' or '-'.")
    shown: dict[str, Any] = {"name": name, "description": function.text("description") or ""}
    function.flag("strict")
    if function.part("parameters") is not None:
        check_schema(function, "parameters")
        shown["parameters"] = function.raw("parameters")
    return {"type": "function", "function": shown}
