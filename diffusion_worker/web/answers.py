"""Answers in OpenAI's shapes: the whole completion and the chunks of a stream.

`usage` adds `diffusion` and `accepted_prediction_tokens`. The chunk that carries a finish reason has the same
`diffusion` object at its top level: so a gateway reads the confidence of a stream whose client asked for no usage.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from diffusion_worker.records import Usage

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What every part of one answer repeats."""

    id: str
    model: str
    created: int  # Unix seconds


def completion(label: Label, text: str, finish_reason: str, usage: Mapping[str, Any]) -> bytes:
    """The answer of a request that did not stream."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    return orjson.dumps({**_head(label, "chat.completion"), "choices": [choice], "usage": usage})


class Chunks:
    """The server-sent events of one stream, in this order: role, text (none or often), finish, usage, DONE."""

    def __init__(self, label: Label, include_usage: bool) -> None:
        self._head = _head(label, "chat.completion.chunk")
        # OpenAI: with include_usage every chunk but the last has a usage of null.
        self._tail: dict[str, Any] = {"usage": None} if include_usage else {}

    def role(self) -> bytes:
        """Opens the answer."""
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, text: str) -> bytes:
        """Text that is final."""
        return self._chunk({"content": text})

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


def usage_body(usage: Usage, accepted_prediction_tokens: int) -> dict[str, Any]:
    """OpenAI's usage with our additions."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "completion_tokens_details": {"accepted_prediction_tokens": accepted_prediction_tokens},
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
