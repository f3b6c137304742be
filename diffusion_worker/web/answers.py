"""Answers in OpenAI's shapes: the whole completion and the chunks of a stream.

`usage` adds `diffusion` and `accepted_prediction_tokens`. The chunk that carries a finish reason has the same
`diffusion` object at its top level: so a gateway reads the confidence of a stream whose client asked for no usage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson

from diffusion_worker.records import Usage
from diffusion_worker.text.channels import Heard
from diffusion_worker.text.tool_calls import ToolCall

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What every part of one answer repeats."""

    PREFIX: ClassVar[str] = "chatcmpl-"

    id: str
    model: str
    created: int  # Unix seconds


def completion(label: Label, heard: Sequence[Heard], finish_reason: str, usage: Mapping[str, Any]) -> bytes:
    """The answer of a request that did not stream. Thought and calls are there only if there were any; a message that
    only calls has a content of null."""
    text, thought = "".join(part.text for part in heard), "".join(part.thought for part in heard)
    calls = [call for part in heard for call in part.calls]
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = [call_body(label, number, call) for number, call in enumerate(calls)]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    return orjson.dumps({**_head(label, "chat.completion"), "choices": [choice], "usage": usage})


def call_body(label: Label, number: int, call: ToolCall) -> dict[str, Any]:
    """One call of an answer; its id is the answer's, numbered."""
    return {
        "id": f"call_{label.id.removeprefix(Label.PREFIX)}_{number}",
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


class Chunks:
    """The server-sent events of one stream, in this order: role, thought, text and calls (none or often), finish,
    usage, DONE."""

    def __init__(self, label: Label, include_usage: bool) -> None:
        self._label = label
        self._calls = 0
        self._head = _head(label, "chat.completion.chunk")
        # OpenAI: with include_usage every chunk but the last has a usage of null.
        self._tail: dict[str, Any] = {"usage": None} if include_usage else {}

    def role(self) -> bytes:
        """Opens the answer."""
        return self._chunk({"role": "assistant", "content": ""})

    def heard(self, heard: Heard) -> bytes:
        """What is final: thought, text, and whole calls, each in an event of its own."""
        deltas: list[dict[str, Any]] = []
        if heard.thought:
            deltas.append({"reasoning_content": heard.thought})
        if heard.text:
            deltas.append({"content": heard.text})
        for call in heard.calls:
            body = {"index": self._calls, **call_body(self._label, self._calls, call)}
            deltas.append({"tool_calls": [body]})
            self._calls += 1
        return b"".join(map(self._chunk, deltas))

    def finish(self, reason: str, diffusion: Mapping[str, Any]) -> bytes:
        """Ends the answer and says how it came about."""
        return self._chunk({}, reason, diffusion=diffusion)

    def usage(self, usage: Mapping[str, Any]) -> bytes:
        """The chunk that `stream_options.include_usage` asks for."""
        return event({**self._head, "choices": [], "usage": usage})

    def _chunk(self, delta: Mapping[str, Any], reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event({**self._head, "choices": [choice], **more, **self._tail})


def event(value: Mapping[str, Any]) -> bytes:
    """One server-sent event; JSON holds no line break."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def usage_body(usage: Usage, *, accepted_prediction_tokens: int, reasoning_tokens: int) -> dict[str, Any]:
    """OpenAI's usage with our additions."""
    details = {"accepted_prediction_tokens": accepted_prediction_tokens, "reasoning_tokens": reasoning_tokens}
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "completion_tokens_details": details,
        "diffusion": diffusion_body(usage),
    }


def diffusion_body(usage: Usage) -> dict[str, Any]:
    """How the answer came about; read left to right, there are no denoising steps and nothing converges."""
    return {
        "denoising_steps": usage.denoising_steps,
        "forward_passes": usage.forward_passes,
        "tokens_per_forward": round(usage.tokens_per_forward, 3),
        "confidence": usage.confidence,
        "converged": usage.converged,
    }


def _head(label: Label, kind: str) -> dict[str, Any]:
    return {"id": label.id, "object": kind, "created": label.created, "model": label.model}
