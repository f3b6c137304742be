"""Writes the prompts of a text completion into the body of one call: as a prompt with a suffix for targets with text
completions, as messages for all others."""

from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import Raw

from gateway.beyond_chat import Prompt
from gateway.enums import Capability, Kind, TargetApi
from gateway.parameters import api_for
from gateway.routing.fill_in_the_middle import STOPS
from gateway.types import Call, Capabilities

_encode: Final = msgspec.json.encode
_read: Final = msgspec.json.decode

_CONTINUE: Final = (
    "Continue the user's text. Reply with the continuation only, from the exact character where the text ends:"
    " no introduction, no comments, no code fence."
)
_FILL: Final = (
    "The user's text has a gap, marked {gap}. Reply only with the text that belongs in the gap: no introduction,"
    " no comments, no code fence, and nothing of what stands before or after the gap."
)
_GAP: Final = "<GAP>"


def write_prompt(fields: dict[str, Raw], call: Call, capabilities: Capabilities | None) -> None:
    """Replace `messages` by what the target takes. A call for one of several prompts gets only that one."""
    prompts = call.query.beyond_chat.prompts if call.prompt is None else (call.query.beyond_chat.prompts[call.prompt],)
    if api_for(call.target, capabilities, call.query) is TargetApi.CHAT:
        fields["messages"] = _raw(messages_of(prompts[0]))
        _drop_marker_stops(fields)
        return
    has_suffix = capabilities is None or Capability.SUFFIX in capabilities.supported
    sent = [_sent(prompt, has_suffix=has_suffix) for prompt in prompts]
    fields.pop("messages", None)
    fields["prompt"] = _raw([text for text, _ in sent] if len(sent) > 1 else sent[0][0])
    if sent[0][1] is not None:
        fields["suffix"] = _raw(sent[0][1])
        _drop_marker_stops(fields)
    _write_completion_fields(fields, is_worker=call.target.kind is Kind.WORKER)
    if call.query.beyond_chat.scores_prompts:
        fields["echo"] = _raw(True)
    if call.query.beyond_chat.is_unanswered:
        fields["max_tokens"] = _raw(0)


def takes_all_prompts(call: Call, capabilities: Capabilities | None) -> bool:
    """Whether the target takes all prompts of a request in one call: they are sent with the same suffix, if any."""
    if call.target.kind is not Kind.OPENAI or capabilities is None:
        return False
    if api_for(call.target, capabilities, call.query) is TargetApi.CHAT:
        return False
    has_suffix = Capability.SUFFIX in capabilities.supported
    return len({_sent(prompt, has_suffix=has_suffix)[1] for prompt in call.query.beyond_chat.prompts}) == 1


def messages_of(prompt: Prompt) -> list[dict[str, str]]:
    """The messages that ask a chat model for the same text. Token ids have none: such a target is skipped."""
    text = prompt.text if isinstance(prompt.text, str) else ""
    if prompt.suffix is None:
        return [{"role": "system", "content": _CONTINUE}, {"role": "user", "content": text}]
    gap = _gap_marker(text, prompt.suffix)
    return [
        {"role": "system", "content": _FILL.format(gap=gap)},
        {"role": "user", "content": f"{text}{gap}{prompt.suffix}"},
    ]


def _gap_marker(text: str, suffix: str) -> str:
    """A marker that neither text contains: no text can contain a hash of itself. The same texts get the same marker."""
    if _GAP not in text and _GAP not in suffix:
        return _GAP
    both = f"{text}{_GAP}{suffix}".encode("utf-8", "surrogatepass")
    return f"<GAP-{sha256(both).hexdigest()[:16]}>"


def _sent(prompt: Prompt, *, has_suffix: bool) -> tuple[str | tuple[int, ...], str | None]:
    """The prompt and the suffix to send. A target without suffixes gets the markers that the client wrote."""
    if prompt.marked is not None and not has_suffix:
        return prompt.marked, None
    return prompt.text, prompt.suffix


def _write_completion_fields(fields: dict[str, Raw], *, is_worker: bool) -> None:
    """The other fields whose form differs from chat completions."""
    if "max_completion_tokens" in fields:
        fields.setdefault("max_tokens", fields.pop("max_completion_tokens"))
    top = fields.pop("top_logprobs", None)
    if "logprobs" in fields and _read(fields.pop("logprobs")):
        fields["logprobs"] = _raw(_read(top) if top is not None else 0)
    if is_worker and "response_format" in fields:
        wanted = _read(fields.pop("response_format"))
        schema = (wanted.get("json_schema") or {}).get("schema")
        form: dict[str, Any] = {"json_object": True} if schema is None else {"json": schema}
        fields["structured_outputs"] = _raw(form)


def _drop_marker_stops(fields: dict[str, Raw]) -> None:
    """Without markers in the prompt, no answer contains the markers at which editors stop. Many servers take only four
    stop strings, and editors send a marker of every family."""
    if "stop" not in fields:
        return
    given = _read(fields["stop"])
    stops = [stop for stop in given if stop not in STOPS] if isinstance(given, list) else given
    if stops == given:
        return
    if stops:
        fields["stop"] = _raw(stops)
    else:
        del fields["stop"]


def _raw(value: Any) -> Raw:
    return Raw(_encode(value))
