"""One request for each API, and one value with an effect for each of its parameters: what the page on compatibility
tries at each kind of target."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A `value`, and the fields that a request needs `beside` it."""

    value: Any
    beside: Fields = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Surface:
    """An API: its path, its smallest request, and its other parameters."""

    title: str
    path: str
    request: Fields
    parameters: Mapping[str, Parameter]


_SCHEMA: Final = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
_HI: Final = [{"role": "user", "content": "Hi"}]
_FUNCTION: Final = {"name": "f", "parameters": _SCHEMA}
_TOOLS: Final = [{"type": "function", "function": _FUNCTION}]
_NAMED: Final = {"type": "function", "function": {"name": "f"}}
_STREAM: Final = {"stream": True}
_EDITED: Final = [{"role": "user", "content": "<|code_to_edit|>\na = 1\n<|/code_to_edit|>"}]
_APPLIED: Final = [
    {
        "role": "user",
        "content": "<|original_code|>\na = 1\n<|/original_code|>\n<|update_snippet|>\na = 2\n<|/update_snippet|>",
    }
]


def _of(plain: Fields, **beside: Parameter) -> dict[str, Parameter]:
    return {**{name: Parameter(value) for name, value in plain.items()}, **beside}


_SAMPLING: Final = {
    "temperature": 0.5,
    "top_p": 0.5,
    "seed": 7,
    "stop": ["END"],
    "n": 2,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "logit_bias": {"5": 1},
    "max_tokens": 9,
    "user": "u",
    "stream": True,
}
_ENGINES: Final = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2}
_CHAT: Final = _of(
    {
        **_SAMPLING,
        **_ENGINES,
        "max_completion_tokens": 9,
        "logprobs": True,
        "reasoning_effort": "high",
        "verbosity": "low",
        "prediction": {"type": "content", "content": "Hello"},
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": _SCHEMA}},
        "tools": _TOOLS,
        "metadata": {"team": "a"},
        "store": True,
        "service_tier": "flex",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "prompt_cache_options": {"ttl": "30m"},
        "functions": [_FUNCTION],
        "function_call": {"name": "f"},
        "modalities": ["audio"],
        "audio": {"voice": "v", "format": "mp3"},
        "web_search_options": {"search_context_size": "low"},
        "moderation": {"model": "m"},
    },
    top_logprobs=Parameter(2, {"logprobs": True}),
    stream_options=Parameter({"include_usage": True}, _STREAM),
    tool_choice=Parameter(_NAMED, {"tools": _TOOLS}),
    parallel_tool_calls=Parameter(False, {"tools": _TOOLS}),
)
_RESPONSES: Final = _of(
    {
        "instructions": "Be brief.",
        "max_output_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.5,
        "text": {"format": {"type": "json_schema", "name": "a", "schema": _SCHEMA}},
        "tools": [{"type": "function", **_FUNCTION}],
        "reasoning": {"effort": "high"},
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
        "stream": True,
        "store": True,
        "metadata": {"team": "a"},
        "truncation": "auto",
        "user": "u",
        "safety_identifier": "s",
        "service_tier": "flex",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "prompt_cache_options": {"ttl": "30m"},
        "max_tool_calls": 3,
        "prompt": {"id": "p"},
        "context_management": [{"type": "compaction"}],
        "moderation": {"model": "m"},
        "previous_response_id": "resp_1",
        "conversation": "conv_1",
        "background": True,
        "background_options": {"completion_window": "2h"},
        "access_programs": {"cyber": "standard"},
        "image": {"comparison_response_id": "resp_1"},
    },
    stream_options=Parameter({"include_obfuscation": True}, _STREAM),
    tool_choice=Parameter({"type": "function", "name": "f"}, {"tools": [{"type": "function", **_FUNCTION}]}),
    parallel_tool_calls=Parameter(False, {"tools": [{"type": "function", **_FUNCTION}]}),
)
_TEXT: Final = {**_SAMPLING, **_ENGINES, "suffix": "end", "logprobs": 2, "echo": True, "best_of": 2}
_COMPLETIONS: Final = _of(_TEXT, stream_options=Parameter({"include_usage": True}, _STREAM))
_FILL_IN: Final = _of({**_TEXT, "random_seed": 7}, stream_options=Parameter({"include_usage": True}, _STREAM))
_MESSAGES: Final = _of(
    {
        "system": "Be brief.",
        "temperature": 0.5,
        "top_p": 0.5,
        "top_k": 5,
        "stop_sequences": ["END"],
        "stream": True,
        "tools": [{"name": "f", "input_schema": _SCHEMA}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {"format": {"type": "json_schema", "schema": _SCHEMA}},
        "metadata": {"user_id": "u"},
        "service_tier": "standard_only",
        "container": "c",
        "mcp_servers": [{"type": "url", "url": "http://a.example", "name": "a"}],
        "context_management": {"edits": []},
        "inference_geo": "eu",
    },
    tool_choice=Parameter({"type": "any"}, {"tools": [{"name": "f", "input_schema": _SCHEMA}]}),
)
_QUESTIONS: Final = [{"type": "predicate", "instructions": "Is it spam?"}]
_DECISIONS: Final = _of(
    {
        "prompt_cache_key": "k",
        "prompt_cache_options": {"ttl": "30m"},
        "safety_identifier": "s",
        "metadata": {"team": "a"},
        "user": "u",
        "store": True,
        "service_tier": "flex",
        "stream": True,
    }
)
_EMBEDDINGS: Final = _of({"dimensions": 8, "encoding_format": "base64", "user": "u"})
_CODE: Final = _of({**_SAMPLING, **_ENGINES, "prediction": {"type": "content", "content": "a = 2"}})
SURFACES: Final = (
    Surface("Chat completions", "/v1/chat/completions", {"messages": _HI}, MappingProxyType(_CHAT)),
    Surface("Responses", "/v1/responses", {"input": "Hi"}, MappingProxyType(_RESPONSES)),
    Surface("Completions", "/v1/completions", {"prompt": "Hi"}, MappingProxyType(_COMPLETIONS)),
    Surface("Fill in the middle", "/v1/fim/completions", {"prompt": "Hi"}, MappingProxyType(_FILL_IN)),
    Surface("Next edit", "/v1/edit/completions", {"messages": _EDITED}, MappingProxyType(_CODE)),
    Surface("Apply", "/v1/apply/completions", {"messages": _APPLIED}, MappingProxyType(_CODE)),
    Surface("Messages", "/v1/messages", {"messages": _HI, "max_tokens": 9}, MappingProxyType(_MESSAGES)),
    Surface("Decisions", "/v1/decisions", {"input": "Hi", "questions": _QUESTIONS}, MappingProxyType(_DECISIONS)),
    Surface("Embeddings", "/v1/embeddings", {"input": ["Hi"]}, MappingProxyType(_EMBEDDINGS)),
)
