"""Parts of OpenAI responses that chat and text completions share: response metadata, usage and stream events.

`usage` has an additional `diffusion` object. The chunk with the finish reason carries the same object at its top level,
so that a gateway can read the confidence of a stream without `include_usage`.
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
    """Fields that every chunk of one response repeats."""

    id: str
    model: str
    created: int  # Unix seconds


class Writer(ABC):
    """Writes one response, as a JSON body or as a stream of server-sent events.

    Order of the events: opening, any number of output and draft events, finish, usage, DONE. Subclasses define the
    content of a choice."""

    PREFIX: ClassVar[str]  # of the response id
    WHOLE: ClassVar[str]  # `object` of a JSON body
    CHUNK: ClassVar[str]  # `object` of a stream event

    def __init__(self, metadata: ResponseMetadata, *, include_usage: bool = False) -> None:
        self._metadata = metadata
        # OpenAI: with include_usage every chunk but the last has a usage of null.
        self._tail: dict[str, Any] = {"usage": None} if include_usage else {}

    def response_body(self, output: Sequence[ChannelOutput], reason: str, usage: Mapping[str, Any]) -> bytes:
        """The body of a response that is not streamed."""
        choice = self._choice(self._content(output), reason)
        return orjson.dumps({**self._head(self.WHOLE), "choices": [choice], "usage": usage})

    @abstractmethod
    def opening(self) -> bytes:
        """The first event of a stream; may be empty."""

    @abstractmethod
    def output_events(self, output: ChannelOutput) -> bytes:
        """The events for final output; empty without output."""

    @abstractmethod
    def finish(self, reason: str, diffusion: Mapping[str, Any]) -> bytes:
        """The event with the finish reason and the `diffusion` object."""

    def usage(self, usage: Mapping[str, Any]) -> bytes:
        """The event requested with `stream_options.include_usage`."""
        return event({**self._head(self.CHUNK), "choices": [], "usage": usage})

    def draft(self, draft: Mapping[str, Any]) -> bytes:
        """The event requested with `stream_options.include_drafts`; without choices, so that clients can ignore it."""
        return event({**self._head(self.CHUNK), "choices": [], "twolane": draft, **self._tail})

    @abstractmethod
    def _content(self, output: Sequence[ChannelOutput]) -> dict[str, Any]:
        """The fields of a complete choice that differ between chat and text completions."""

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
    """Metadata with a new random id."""
    return ResponseMetadata(id=f"{kind.PREFIX}{secrets.token_hex(12)}", model=model, created=int(time.time()))


def event(value: Mapping[str, Any]) -> bytes:
    """One server-sent event. Serialised JSON contains no line break."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """OpenAI's `completion_tokens_details`."""

    accepted_prediction_tokens: int = 0  # tokens of the prediction that the answer contains
    rejected_prediction_tokens: int = 0  # tokens of the prediction that it does not contain
    reasoning_tokens: int = 0  # tokens of the thought channel


def usage_body(usage: Usage, details: Details) -> dict[str, Any]:
    """OpenAI's `usage` object with the additional `diffusion` object."""
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
    """Denoising statistics of the answer. In autoregressive mode steps are 0; there, and in verified mode, whose steps
    are drafts, `converged` is null. `load` and `thresholds` are present only if thresholds moved: the highest load, and
    the values at that load."""
    moved = {name: float(f"{value:.4g}") for name, value in usage.thresholds}
    return {
        "denoising_steps": usage.denoising_steps,
        "forward_passes": usage.forward_passes,
        "tokens_per_forward": round(usage.tokens_per_forward, 3),
        "confidence": usage.confidence,
        "converged": usage.converged,
        **({} if usage.load is None else {"load": round(usage.load, 3), "thresholds": moved}),
    }
