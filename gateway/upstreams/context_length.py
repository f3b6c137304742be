"""Recognises error messages of targets that say: the request is longer than the model's context. Pure.

OpenAI marks them with a code and llama.cpp with a type. Other servers only say it in words, so messages are matched
against those of vLLM, SGLang, TensorRT-LLM, TGI, LM Studio, Anthropic, Gemini, Mistral, Cohere, xAI, Bedrock,
OpenRouter, Qwen, Moonshot, Zhipu and MiniMax.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_NAMES: Final = frozenset(
    {
        *("context_length_exceeded", "exceed_context_size_error", "context_window_exceeded"),
        "model_max_prompt_tokens_exceeded",
    }
)
_MAX_SCANNED: Final = 1000  # characters of a message: the cause comes first
_N: Final = r"(\d[\d,_]{0,14})"

# In lower case. `.` does not cross a sentence where `[^.]` is used.
_WORDS: Final = re.compile(
    "|".join(
        (
            r"maximum (?:context|model|prompt) length",
            r"(?:exceed(?:s|ed|ing)?|longer than|larger than|greater than|too large for)\b[^.]{0,60}"
            r"\bcontext (?:length|window|size|limit)",
            r"context (?:length|window|size)[^.]{0,40}(?:exceeded|overflow|of only)",
            r"context (?:the )?overflow",
            r"context window exceeds limit",
            r"\b(?:prompt|input)(?: text| length)? (?:is|was|are) too long",
            r"(?:input|prompt) token count of \d+ exceeds",
            r"(?:input|prompt) tokens? (?:count )?(?:\(\d+\) )?exceeds? the (?:configured|maximum)",
            r"`inputs` (?:tokens \+ `max_new_tokens` )?must (?:be <=|have less than)",
            r"(?:number of )?tokens in the prompt cannot exceed",
            r"requested token count exceeds",
            r"(?:prompt|input) length[^.]{0,60}(?:exceed|longer than)",
            r"(?:prompt|input)(?: \(\d+ tokens\))? (?:is too long|exceeds? (?:the )?max(?:imum)? length)",
            r"range of input length should be",
            r"exceed(?:s|ed)? (?:the )?(?:model token limit|max message tokens)",
            r"reduce the length of the (?:messages|prompt|input)",
            r"(?:exceeds?|longer than|>) max_(?:seq_len|input_len|model_len|num_tokens)",
        )
    )
)
_LIMITS: Final = tuple(
    map(
        re.compile,
        (
            rf"maximum (?:context|model|prompt) length (?:is|of) {_N}",
            rf"{_N} maximum context length",
            rf"context (?:length|window|size|limit)(?: of(?: only)?| is(?: only)?|:)? \(?{_N}",
            rf"maximum (?:input|allowed|prompt) length \({_N}",
            rf"input length should be \[\d+, ?{_N}",
            rf"(?:model token|exceeds?(?: the)?) limit(?: of|:)? {_N}",
            rf"(?:configured limit of|maximum number of tokens allowed) \(?{_N}",
            rf"must (?:be <=|have less than) {_N}",
            rf"cannot exceed {_N}",
            rf"> {_N}",
        ),
    )
)
_NEEDS: Final = tuple(
    map(
        re.compile,
        (
            rf"(?:you requested|requested)(?: a total of| about)? {_N} tokens",
            rf"(?:resulted in|contains?|has) {_N}(?: (?:input |prompt )?tokens|,)",
            rf"\({_N} tokens\) (?:is|are|exceeds?)",
            rf"(?:length|tokens) \({_N}\) exceeds?",
            rf"token count of {_N} exceeds",
            rf"length {_N}\) is longer",
            rf"(?:too long: |the first ){_N}(?: tokens|,)",
            rf"token count \({_N}\)",
            rf"received {_N}",
        ),
    )
)
_SUM: Final = re.compile(rf"{_N} \+ {_N} > {_N}")  # Anthropic: prompt + max_tokens > limit
_PARTS: Final = re.compile(rf"passed {_N} input tokens and requested {_N} output tokens")  # vLLM


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextLimit:
    """What a message says in tokens: the target's context, and what the request needs. None: it does not say it."""

    limit: int | None = None
    needed: int | None = None


def read_context_limit(error: Mapping[str, Any]) -> ContextLimit | None:
    """The figures of an error object (`message`, `type`, `code`, llama.cpp's `n_ctx`); None if it has another cause."""
    message = error.get("message")
    words = message[:_MAX_SCANNED].lower() if isinstance(message, str) else ""
    is_named = any(isinstance(error.get(key), str) and error[key] in _NAMES for key in ("code", "type"))
    if not is_named and not _WORDS.search(words):
        return None
    limit, needed = _figures(words)
    limit, needed = _count(error.get("n_ctx")) or limit, _count(error.get("n_prompt_tokens")) or needed
    if limit is not None and needed is not None and needed <= limit:  # of the prompt alone
        needed = None
    return ContextLimit(limit=limit, needed=needed)


def _figures(words: str) -> tuple[int | None, int | None]:
    parts = _SUM.search(words)
    if parts:
        return _number(parts[3]), _number(parts[1]) + _number(parts[2])
    limit, needed = _first(_LIMITS, words), _first(_NEEDS, words)
    asked = _PARTS.search(words)
    return limit, _number(asked[1]) + _number(asked[2]) if asked else needed


def _first(patterns: tuple[re.Pattern[str], ...], words: str) -> int | None:
    return next((_number(found[1]) for pattern in patterns if (found := pattern.search(words))), None)


def _number(digits: str) -> int:
    return int(re.sub(r"\D", "", digits))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
