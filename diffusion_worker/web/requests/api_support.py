"""How much of OpenAI's two dialects this worker honours: field by field, and as published capabilities.

What is not honoured is refused by name, never ignored. Reading the honoured fields is the parsers' part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusion_worker.types.requests import DecodingMode
from diffusion_worker.web.requests.fields import Fields


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSupport:
    """The fields of a dialect: `honoured` ones are read, those of `off` accepted only where the value says "off"."""

    honoured: tuple[str, ...]
    off: Mapping[str, tuple[Any, ...]]


_HONOURED = (
    "model",
    "max_tokens",
    "seed",
    "temperature",
    "stop",
    "stream",
    "stream_options",
    "n",
    "diffusion",
    "structured_outputs",
)
_OFF: Mapping[str, tuple[Any, ...]] = {
    "logit_bias": ({},),
    "top_p": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "best_of": (1,),
}
CHAT = ApiSupport(
    honoured=(
        *_HONOURED,
        *("messages", "max_completion_tokens", "prediction", "response_format"),
        *("tools", "tool_choice", "parallel_tool_calls", "logprobs", "top_logprobs"),
        *("reasoning_effort", "chat_template_kwargs"),  # where the template has a switch
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
        "verbosity": (),
        "web_search_options": (),
    },
)
COMPLETIONS = ApiSupport(
    honoured=(*_HONOURED, "prompt", "suffix", "echo"),
    off={**_OFF, "logprobs": (), "prediction": (), "response_format": ()},  # `logprobs: 0` asks for some here
)
# They change no answer here: labels, storage and scheduling of OpenAI's own platform.
HARMLESS_TEXTS = ("user", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
HARMLESS_FLAGS = ("store",)
HARMLESS = ("metadata", *HARMLESS_TEXTS, *HARMLESS_FLAGS)
# The closed set of words that policies and `/v1/models` share, each with true, false or a grade.
_OFFERED: Mapping[str, bool | str] = {
    **dict.fromkeys(("chat", "completions", "stream", "seed", "temperature", "stop"), True),
    **dict.fromkeys(("json_object", "regex", "choice", "template", "tool_choice"), True),
    **dict.fromkeys(("top_p", "logit_bias", "n", "images", "embeddings"), False),
    **dict.fromkeys(("json_schema", "tools"), "guaranteed"),
}
# Only a canvas can start from a text, end in one, or tell labels apart in one pass.
_OF_READING: Mapping[DecodingMode, Mapping[str, bool | str]] = {
    DecodingMode.DIFFUSION: {"prediction": "anchored", "suffix": True, "logprobs": True},
    DecodingMode.AUTOREGRESSIVE: {"prediction": "none", "suffix": False, "logprobs": False},
}


def capabilities_of(decoding_mode: DecodingMode) -> Mapping[str, bool | str]:
    """What a reading of a checkpoint can do."""
    return {**_OFFERED, **_OF_READING[decoding_mode]}


def check_surface(fields: Fields, support: ApiSupport) -> None:
    """Raises Unsupported for the first field, or value of one, that would have to be ignored."""
    fields.only((*support.honoured, *HARMLESS, *support.off))
    for name, off in support.off.items():
        value = fields.raw(name)
        if value is not None and not any(_same(value, word) for word in off):
            raise fields.refuse(name, "is not supported by this model.")
    if fields.whole("n", 1, 128) not in (None, 1):
        raise fields.refuse("n", "must be 1 for this model.")
    _check_harmless(fields)


def _same(value: Any, word: Any) -> bool:
    """Equality that tells 0 from false, as JSON does and Python does not."""
    return bool(value == word) and isinstance(value, bool) is isinstance(word, bool)


def _check_harmless(fields: Fields) -> None:
    """They have no effect, but a wrong type is still a mistake worth telling."""
    fields.part("metadata")
    for name in HARMLESS_TEXTS:
        fields.text(name)
    for name in HARMLESS_FLAGS:
        fields.flag(name)
