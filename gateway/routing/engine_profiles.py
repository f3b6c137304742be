"""What well-known engines can honour, for targets that do not publish their own capabilities.

A profile is a default: a policy may state `capabilities` word by word instead.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gateway.enums import Capability, Grade
from gateway.types import Capabilities

_SAMPLING: Final = "seed temperature top_p stop"
_PROFILES: Final = {
    # Its diffusion models refuse seeds, temperatures, biases and every structured output (vLLM 0.33, SamplingParams).
    "vllm_diffusion": ("chat completions stream top_p stop n logprobs images", Grade.NONE, Grade.NONE),
    # SGLang 0.5.23 refuses as much and logprobs besides; temperature and top_p it takes and ignores.
    "sglang_diffusion": ("chat completions stream stop images", Grade.NONE, Grade.NONE),
    "vllm": (
        f"chat completions stream {_SAMPLING} n logprobs logit_bias images json_schema json_object regex choice tools"
        " tool_choice embeddings",
        Grade.GUARANTEED,
        Grade.BEST_EFFORT,
    ),
    "sglang": (
        f"chat completions stream {_SAMPLING} n logprobs logit_bias images json_schema json_object regex tools"
        " tool_choice embeddings",
        Grade.GUARANTEED,
        Grade.BEST_EFFORT,
    ),
    "llama_cpp": (
        f"chat completions stream {_SAMPLING} logprobs logit_bias json_schema json_object tools tool_choice",
        Grade.GUARANTEED,
        Grade.BEST_EFFORT,
    ),
    "openai": (
        f"chat completions stream {_SAMPLING} n logprobs logit_bias images json_schema json_object tools tool_choice"
        " prediction embeddings",
        Grade.GUARANTEED,
        Grade.GUARANTEED,
    ),
}


def capabilities_of(words: frozenset[Capability], *, json_schema: Grade, tools: Grade) -> Capabilities:
    """Capabilities whose graded words agree with their grades."""
    return Capabilities(
        words=words,
        json_schema=json_schema if Capability.JSON_SCHEMA in words else Grade.NONE,
        tools=tools if Capability.TOOLS in words else Grade.NONE,
        prediction=Grade.WARM_START if Capability.PREDICTION in words else Grade.NONE,
    )


ENGINES: Final[Mapping[str, Capabilities]] = MappingProxyType(
    {
        name: capabilities_of(frozenset(map(Capability, words.split())), json_schema=json_schema, tools=tools)
        for name, (words, json_schema, tools) in _PROFILES.items()
    }
)
