"""Capability profiles of well-known engines, for targets that do not publish their capabilities.

A policy may list `capabilities` explicitly instead.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from gateway.enums import Capability, Grade, Kind
from gateway.parameters import CACHE_CONTROL, NAME
from gateway.types import Capabilities

_SAMPLING: Final = "seed temperature top_p stop presence_penalty frequency_penalty"
_OPEN_WEIGHTS: Final = f"{_SAMPLING} top_k min_p repetition_penalty reasoning_effort"
_PROFILES: Final = {
    # vLLM's diffusion models reject seed, temperature, logit_bias and all structured outputs (vLLM 0.33).
    "vllm_diffusion": ("chat completions stream top_p stop n logprobs images", Grade.NONE, Grade.NONE),
    # SGLang 0.5.23 also rejects logprobs; it accepts and ignores temperature and top_p.
    "sglang_diffusion": ("chat completions stream stop images", Grade.NONE, Grade.NONE),
    "vllm": (
        f"chat completions stream {_OPEN_WEIGHTS} n logprobs prompt_logprobs logit_bias images json_schema json_object"
        " regex choice grammar tools tool_choice embeddings",
        Grade.GUARANTEED,
        Grade.BEST_EFFORT,
    ),
    "sglang": (
        f"chat completions stream {_OPEN_WEIGHTS} n logprobs prompt_logprobs logit_bias images json_schema json_object"
        " regex grammar tools tool_choice embeddings",
        Grade.GUARANTEED,
        Grade.BEST_EFFORT,
    ),
    "llama_cpp": (
        f"chat completions stream {_SAMPLING} top_k min_p logprobs logit_bias json_schema json_object grammar tools"
        " tool_choice",
        Grade.GUARANTEED,
        Grade.BEST_EFFORT,
    ),
    # Without text completions: few of OpenAI's models have them, and a chat completion takes their place.
    "openai": (
        f"chat stream {_SAMPLING} n logprobs logit_bias images json_schema json_object tools tool_choice"
        " prediction embeddings reasoning_effort",
        Grade.GUARANTEED,
        Grade.GUARANTEED,
    ),
}


_PLATFORM: Final = (
    "user safety_identifier metadata store service_tier prompt_cache_key prompt_cache_retention verbosity"
    " reasoning_effort functions function_call modalities audio web_search_options"
)
_VLLM_FIELDS: Final = (
    f"user {NAME} chat_template_kwargs min_tokens ignore_eos stop_token_ids bad_words length_penalty best_of echo"
    " use_beam_search include_stop_str_in_output skip_special_tokens spaces_between_special_tokens"
    " add_generation_prompt continue_final_message include_reasoning priority request_id cache_salt"
)
# The fields that an engine takes in addition, and those that it ignores silently although they ask for something.
_FIELDS: Final = {
    "vllm_diffusion": _VLLM_FIELDS,
    "sglang_diffusion": f"user {NAME}",
    "vllm": _VLLM_FIELDS,
    "sglang": f"user {NAME} chat_template_kwargs min_tokens ignore_eos stop_token_ids skip_special_tokens"
    " continue_final_message",
    "llama_cpp": f"user {NAME} chat_template_kwargs ignore_eos cache_prompt id_slot repeat_penalty typical_p"
    " mirostat dynatemp_range dry_multiplier xtc_probability",
    "openai": f"{_PLATFORM} prompt_cache_options {NAME}",
}
_MISSING: Final = frozenset({"functions", "function_call", "web_search_options"})
# Parameters that are left out by default, because the engine's denoising schedule takes their place.
DEFAULT_IGNORE: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "vllm_diffusion": frozenset({"temperature", "top_k", "min_p"}),
        "sglang_diffusion": frozenset({"temperature", "top_p", "top_k", "min_p"}),
    }
)
DIFFUSION: Final = frozenset(DEFAULT_IGNORE)  # engines that serve diffusion models
_PENALTIES: Final = frozenset({Capability.PRESENCE_PENALTY, Capability.FREQUENCY_PENALTY})
# Some servers with OpenAI's API take them; OpenAI's own refuses them by name.
_NOT_OPENAIS: Final = frozenset({Capability.TOP_K, Capability.MIN_P, Capability.REPETITION_PENALTY})
_PASSED: Final[Mapping[str | None, frozenset[Capability]]] = {
    "openai": _NOT_OPENAIS,
    None: _NOT_OPENAIS | _PENALTIES | {Capability.REASONING_EFFORT},
}
# The named parameters of `litellm.acompletion`, whose `metadata` is its own, and what it translates in messages.
LITELLM_FIELDS: Final = frozenset(_PLATFORM.split()) - {"metadata"} | {NAME, CACHE_CONTROL}


def with_fields(capabilities: Capabilities, kind: Kind, engine: str | None) -> Capabilities:
    """The same capabilities with the request fields that a target takes. Without an `engine`, the policy lists them."""
    if kind is Kind.LITELLM:  # litellm refuses what the provider does not support
        return replace(capabilities, fields=LITELLM_FIELDS, is_open=False, missing=frozenset(), passes=_PENALTIES)
    return replace(
        capabilities,
        fields=frozenset(_FIELDS[engine or "openai"].split()),
        is_open=True,
        missing=frozenset() if engine in (None, "openai") else _MISSING,
        passes=_PASSED.get(engine, frozenset()),
    )


def capabilities_of(supported: frozenset[Capability], *, json_schema: Grade, tools: Grade) -> Capabilities:
    """Capabilities with consistent grades: a capability that is not in `supported` has grade `none`."""
    return Capabilities(
        supported=supported,
        json_schema=json_schema if Capability.JSON_SCHEMA in supported else Grade.NONE,
        tools=tools if Capability.TOOLS in supported else Grade.NONE,
        prediction=Grade.WARM_START if Capability.PREDICTION in supported else Grade.NONE,
    )


ENGINES: Final[Mapping[str, Capabilities]] = MappingProxyType(
    {
        name: with_fields(
            capabilities_of(frozenset(map(Capability, names.split())), json_schema=json_schema, tools=tools),
            Kind.OPENAI,
            name,
        )
        for name, (names, json_schema, tools) in _PROFILES.items()
    }
)
