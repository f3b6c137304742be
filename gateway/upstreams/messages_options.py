"""Writes what a request of Anthropic's Messages API asks for beyond a chat, as the target spells it.

Thinking is an allowance in that API: a model that does not think may leave it out, and so may the gateway.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw

from gateway.beyond_chat import MessagesOptions
from gateway.enums import Capability, Kind
from gateway.types import Call, Capabilities

THOUGHTS: Final = "reasoning_content"  # of an assistant's message
_TEMPLATE: Final = "chat_template_kwargs"
_CONTINUE: Final = "continue_final_message"
_GENERATE: Final = "add_generation_prompt"
# Their chat templates read the switch and the thoughts, or ignore both.
_TEMPLATED: Final = frozenset({"vllm", "sglang", "llama_cpp"})
_encode: Final = msgspec.json.encode
_read: Final = msgspec.json.decode


def write_options(
    fields: dict[str, Raw], call: Call, capabilities: Capabilities | None, options: MessagesOptions
) -> None:
    """Write the options into the body of one call; what the target does not have is left out."""
    target = call.target
    is_templated = target.kind is Kind.OPENAI and target.engine in _TEMPLATED
    if options.has_thoughts and not is_templated and target.kind is not Kind.WORKER:
        _remove_thoughts(fields)
    if options.thinking is not None and is_templated:
        given = _read(fields[_TEMPLATE]) if _TEMPLATE in fields else {}
        fields[_TEMPLATE] = Raw(_encode({"enable_thinking": options.thinking, **given}))
    elif options.thinking is not None and target.kind is Kind.WORKER:
        _write_effort(fields, call, capabilities, is_on=options.thinking)
    taken = capabilities.fields if capabilities is not None else frozenset()
    if options.is_prefilled and _CONTINUE in taken:
        fields.setdefault(_CONTINUE, Raw(b"true"))
        if _GENERATE in taken:
            fields.setdefault(_GENERATE, Raw(b"false"))
    if target.engine == "openai" and "max_tokens" in fields:  # its reasoning models take only the newer name
        fields.setdefault("max_completion_tokens", fields.pop("max_tokens"))


def _write_effort(fields: dict[str, Raw], call: Call, capabilities: Capabilities | None, *, is_on: bool) -> None:
    """A worker's answer that has a form cannot think."""
    is_free = call.query.output_format is None and not call.query.tool_choice.is_required
    if capabilities is not None and Capability.REASONING_EFFORT in capabilities.supported and (is_free or not is_on):
        fields.setdefault("reasoning_effort", Raw(b'"medium"' if is_on else b'"none"'))


def _remove_thoughts(fields: dict[str, Raw]) -> None:
    messages: list[dict[str, Any]] = _read(fields["messages"])
    for message in messages:
        message.pop(THOUGHTS, None)
    fields["messages"] = Raw(_encode(messages))
