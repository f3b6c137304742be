"""Support of the OpenAI API: supported request fields, and published capabilities.

An unsupported field is refused by name, never ignored. The other modules of this package parse the supported fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusion_worker.text.chat_template import TemplateFeatures
from diffusion_worker.types.requests import DecodingMode
from diffusion_worker.web.requests.fields import Fields


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSupport:
    """The fields of one API: `supported` ones are parsed; those of `off` are accepted with the listed values only."""

    supported: tuple[str, ...]
    off: Mapping[str, tuple[Any, ...]]


_COMMON = (
    "model",
    "max_tokens",
    "seed",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "stop",
    "stream",
    "stream_options",
    "n",
    "diffusion",
    "structured_outputs",
)
_OFF: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,),
}
CHAT = ApiSupport(
    supported=(
        *_COMMON,
        *("messages", "max_completion_tokens", "prediction", "response_format"),
        *("tools", "tool_choice", "parallel_tool_calls", "logprobs", "top_logprobs"),
        *("reasoning_effort", "chat_template_kwargs"),  # if the chat template has a thinking switch
    ),
    off={
        **_OFF,
        "functions": ([],),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "audio": (),
        "images": (),
        "suffix": (),
        "echo": (False,),
        "web_search_options": (),
    },
)
COMPLETIONS = ApiSupport(
    supported=(*_COMMON, "prompt", "suffix", "echo", "prediction", "logprobs"),
    off={**_OFF, "response_format": ()},
)
# Fields of a platform (labels, storage, scheduling) and hints: accepted and without effect.
IGNORED_STRINGS = (
    *("user", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
    "verbosity",  # a hint
)
IGNORED_BOOLEANS = ("store",)
IGNORED = ("metadata", "keep_alive", *IGNORED_STRINGS, *IGNORED_BOOLEANS)  # `keep_alive`: Ollama's, of any type
# The capability names that policies and `/v1/models` share, each with true, false or a grade.
_CAPABILITIES: Mapping[str, bool | str] = {
    **dict.fromkeys(("chat", "completions", "stream", "seed", "temperature", "stop"), True),
    **dict.fromkeys(("json_object", "regex", "choice", "template", "tool_choice"), True),
    **dict.fromkeys(("top_p", "top_k", "min_p", "logit_bias"), True),
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "repetition_penalty"), True),
    **dict.fromkeys(("n", "images", "embeddings"), False),
    **dict.fromkeys(("json_schema", "tools"), "guaranteed"),
}
# Only diffusion can keep to a text, end in a given text, or answer decisions in one pass. Its log-probabilities are
# those of labels, the others' those of tokens, also of an echoed prompt. Verified decoding starts from a text, which
# changes the cost of its answers, but not the answers.
_CAUSAL = {"suffix": False, "logprobs": True, "prompt_logprobs": True, "decisions": False}
_BY_DECODING_MODE: Mapping[DecodingMode, Mapping[str, bool | str]] = {
    DecodingMode.DIFFUSION: {
        "prediction": "anchored",
        "suffix": True,
        "logprobs": True,
        "prompt_logprobs": False,
        "decisions": True,
    },
    DecodingMode.VERIFIED: {"prediction": "warm_start", **_CAUSAL},
    DecodingMode.AUTOREGRESSIVE: {"prediction": "none", **_CAUSAL},
}


def capabilities_of(decoding_mode: DecodingMode, features: TemplateFeatures | None = None) -> Mapping[str, bool | str]:
    """The capabilities of a decoding mode. `features` of the chat template are None until it is loaded."""
    thinks = features is not None and features.thinking
    return {**_CAPABILITIES, "reasoning_effort": thinks, **_BY_DECODING_MODE[decoding_mode]}


def check_fields(fields: Fields, support: ApiSupport) -> None:
    """Raises Unsupported for the first field or value that is not supported."""
    fields.allow_only((*support.supported, *IGNORED, *support.off))
    for name, off in support.off.items():
        value = fields.raw(name)
        if value is not None and not any(_same(value, accepted) for accepted in off):
            raise fields.refuse(name, "is not supported by this model.")
    if fields.integer("n", 1, 128) not in (None, 1):
        raise fields.refuse("n", "must be 1 for this model.")
    _check_ignored(fields)


def _same(value: Any, other: Any) -> bool:
    """JSON equality: unlike in Python, 0 and false differ."""
    return bool(value == other) and isinstance(value, bool) is isinstance(other, bool)


def _check_ignored(fields: Fields) -> None:
    """Check the types of fields without effect: a wrong type is still reported."""
    fields.object("metadata")
    for name in IGNORED_STRINGS:
        fields.text(name)
    for name in IGNORED_BOOLEANS:
        fields.boolean(name)
