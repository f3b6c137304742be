"""Answers in OpenAI's shapes, as far as both dialects share them: labels, accounts, and the events of a stream.

`usage` adds `diffusion`. The chunk that carries a finish reason has the same `diffusion` object at its top level: so a
gateway reads the confidence of a stream whose client asked for no usage.
"""

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson

from diffusion_worker.text.channels import ChannelOutput
from diffusion_worker.types.events import Usage

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseMetadata:
    """What every part of one answer repeats."""

    id: str
    model: str
    created: int  # Unix seconds


class Writer(ABC):
    """Writes one answer: whole, or as a stream of server-sent events in this order: opening, parts and drafts (none or
    often), finish, usage, DONE. How a choice looks is for the dialect to say."""

    PREFIX: ClassVar[str]  # of an answer's id
    WHOLE: ClassVar[str]  # `object` of a whole answer
    CHUNK: ClassVar[str]  # `object` of an event

    def __init__(self, label: ResponseMetadata, *, include_usage: bool = False) -> None:
        self._metadata = label
        # OpenAI: with include_usage every chunk but the last has a usage of null.
        self._tail: dict[str, Any] = {"usage": None} if include_usage else {}

    def whole(self, output: Sequence[ChannelOutput], reason: str, usage: Mapping[str, Any]) -> bytes:
        """The answer of a request that did not stream."""
        choice = self._choice(self._whole(output), reason)
        return orjson.dumps({**self._head(self.WHOLE), "choices": [choice], "usage": usage})

    @abstractmethod
    def opening(self) -> bytes:
        """Begins the answer; may be empty."""

    @abstractmethod
    def part(self, output: ChannelOutput) -> bytes:
        """What is final; empty if that is nothing."""

    @abstractmethod
    def finish(self, reason: str, diffusion: Mapping[str, Any]) -> bytes:
        """Ends the answer and says how it came about."""

    def usage(self, usage: Mapping[str, Any]) -> bytes:
        """The event that `stream_options.include_usage` asks for."""
        return event({**self._head(self.CHUNK), "choices": [], "usage": usage})

    def draft(self, draft: Mapping[str, Any]) -> bytes:
        """The event that `stream_options.include_drafts` asks for; it has no choice, so that whoever only reads text
        reads past it."""
        return event({**self._head(self.CHUNK), "choices": [], "twolane": draft, **self._tail})

    @abstractmethod
    def _whole(self, output: Sequence[ChannelOutput]) -> dict[str, Any]:
        """What a whole answer's choice holds beside the fields that all choices have."""

    def _chunk(self, content: Mapping[str, Any], reason: str | None = None, **more: Any) -> bytes:
        return event({**self._head(self.CHUNK), "choices": [self._choice(content, reason)], **more, **self._tail})

    def _choice(self, content: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
        return {"index": 0, "logprobs": None, **content, "finish_reason": reason}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._metadata.id,
            "object": kind,
            "created": self._metadata.created,
            "model": self._metadata.model,
        }


def new_metadata(kind: type[Writer], model: str) -> ResponseMetadata:
    """A label nobody else has."""
    return ResponseMetadata(id=f"{kind.PREFIX}{secrets.token_hex(12)}", model=model, created=int(time.time()))


def event(value: Mapping[str, Any]) -> bytes:
    """One server-sent event; JSON holds no line break."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What OpenAI tells of the tokens of an answer, counted in ids."""

    accepted_prediction_tokens: int = 0  # of the prediction, that the answer has kept
    rejected_prediction_tokens: int = 0  # of the prediction, that it has not
    reasoning_tokens: int = 0  # of the answer, that were thought and not said


def usage_body(usage: Usage, details: Details) -> dict[str, Any]:
    """OpenAI's usage with our additions."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {
            "accepted_prediction_tokens": details.accepted_prediction_tokens,
            "rejected_prediction_tokens": details.rejected_prediction_tokens,
            "reasoning_tokens": details.reasoning_tokens,
        },
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
