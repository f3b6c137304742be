"""Capability profiles of well-known engines, for targets that do not publish their capabilities.

A policy may list `capabilities` explicitly instead.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gateway.enums import Capability, Grade
from gateway.types import Capabilities

_SAMPLING: Final = "seed temperature top_p stop"
_PROFILES: Final = {
    # vLLM's diffusion models reject seed, temperature, logit_bias and all structured outputs (vLLM 0.33).
    "vllm_diffusion": ("chat completions stream top_p stop n logprobs images", Grade.NONE, Grade.NONE),
    # SGLang 0.5.23 also rejects logprobs; it accepts and ignores temperature and top_p.
    "sglang_diffusion": ("chat completions stream stop images", Grade.NONE, Grade.NONE),
    "vllm": (
        f"chat completions stream {_SAMPLING} n logprobs logit_bias images json_schema json_object regex choice grammar"
        " tools tool_choice embeddings",
        Grade.GUARANTEED,
        Grade.BEST_EFFORT,
    ),
    "sglang": (
        f"chat completions stream {_SAMPLING} n logprobs logit_bias images json_schema json_object regex grammar tools"
        " tool_choice embeddings",
        Grade.GUARANTEED,
        Grade.BEST_EFFORT,
    ),
    "llama_cpp": (
        f"chat completions stream {_SAMPLING} logprobs logit_bias json_schema json_object grammar tools tool_choice",
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
        name: capabilities_of(frozenset(map(Capability, names.split())), json_schema=json_schema, tools=tools)
        for name, (names, json_schema, tools) in _PROFILES.items()
    }
)
