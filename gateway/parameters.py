"""Request parameters: which values change nothing, which are hints, and what happens to each at a target.

A parameter that a target takes is passed on unchanged. At any other target, hints and values without effect are left
out. What is left is listed in the target's `ignore` and left out as well, or the target is skipped as unsupported.
`docs/reference/parameters.md` is generated from this table.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from gateway.beyond_chat import A_CHAT
from gateway.enums import Capability, Kind, TargetApi
from gateway.types import Capabilities, Query, RequestParameters, Target

NAME: Final = "messages[].name"
CACHE_CONTROL: Final = "cache_control"  # of a message, of a part of its content, or of a tool
NESTED: Final = frozenset({NAME, CACHE_CONTROL})
NOT_OF_CHATS: Final = frozenset({"truncation"})  # of responses, and ignored only where they become chats
MAX_N: Final = 128  # OpenAI's limit of `n`; from a target without `n`, they are requested one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter. `off` are the values that change nothing, apart from null. `unthinking` ones change nothing for a
    model that does not think; what another model does without them, only its server knows. A hint may be left out,
    whatever its value. A target with the `capability` takes the parameter."""

    name: str
    capability: Capability | None = None
    off: tuple[Any, ...] = ()
    unthinking: tuple[Any, ...] = ()
    is_hint: bool = False

    def has_effect(self, value: Any) -> bool:
        """Whether leaving the value out would change the answer of a model that does not think."""
        return self.may_have_effect(value) and not _is_one_of(value, self.unthinking)

    def may_have_effect(self, value: Any) -> bool:
        """Whether leaving the value out could change the answer of any model."""
        return value is not None and not _is_one_of(value, self.off)


def _is_one_of(value: Any, values: tuple[Any, ...]) -> bool:
    for each in values:  # noqa: SIM110 - a generator takes twice as long
        if value == each and isinstance(value, bool) is isinstance(each, bool):  # in JSON, 0 and false differ
            return True
    return False


# With a capability, by its name.
_SAMPLING: Final[Mapping[str, tuple[Any, ...]]] = {
    "temperature": (1,),
    "top_p": (1,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "stop": ([],),
    "n": (1,),
    "logprobs": (False,),
    "reasoning_effort": (),
}
_UNTHINKING: Final[Mapping[str, tuple[Any, ...]]] = {
    "reasoning_effort": ("none", "minimal", "low", "medium"),  # the default and below
    "chat_template_kwargs": ({"enable_thinking": False},),
    "thinking": ({"type": "disabled"},),
    "enable_thinking": (False,),
    "think": (False,),
}
# Of OpenAI's API, and of vLLM, SGLang, llama.cpp and Ollama.
_OTHERS: Final[Mapping[str, tuple[Any, ...]]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "chat_template_kwargs": ({},),
    "thinking": (),
    "enable_thinking": (),
    "think": (),
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "no_repeat_ngram_size": (0,),
    "repeat_penalty": (1,),
    "typical_p": (1,),
    "tfs_z": (1,),
    "top_a": (0,),
    "mirostat": (0,),
    "dynatemp_range": (0,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
}
_HINTS: Final[Mapping[str, Capability | None]] = {
    "seed": Capability.SEED,  # best effort, also at OpenAI
    "prediction": Capability.PREDICTION,
    **dict.fromkeys(
        (
            *("user", "safety_identifier", NAME, "metadata", "request_id"),  # identities and labels
            *("store", "service_tier", "priority"),  # storage and scheduling on the provider's side
            *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
            *("cache_salt", "cache_prompt", "id_slot", CACHE_CONTROL),
            *("keep_alive", "verbosity", "include_reasoning"),
        )
    ),
}


def _parameter(name: str, off: tuple[Any, ...], capability: Capability | None = None) -> Parameter:
    return Parameter(name=name, capability=capability, off=off, unthinking=_UNTHINKING.get(name, ()))


PARAMETERS: Final[Mapping[str, Parameter]] = MappingProxyType(
    {
        **{name: _parameter(name, off, Capability(name)) for name, off in _SAMPLING.items()},
        "top_logprobs": Parameter(name="top_logprobs", capability=Capability.LOGPROBS, off=(0,)),
        **{name: Parameter(name=name, capability=each, is_hint=True) for name, each in _HINTS.items()},
        **{name: _parameter(name, off) for name, off in _OTHERS.items()},
    }
)
# Fields that ask for an output format, as OpenAI and common engines spell them.
FORMAT_FIELDS: Final = frozenset(
    "response_format structured_outputs guided_json guided_regex guided_choice guided_grammar guided_decoding_backend"
    " guided_whitespace_pattern json_schema regex ebnf grammar structural_tag format".split()
)
# Objects in which a request may nest these fields: the argument of OpenAI's SDKs, taken literally, and NIM's.
NESTS: Final = ("extra_body", "nvext")
# Fields that every target takes, or that the gateway translates; what they ask for has capabilities of its own.
HANDLED: Final = FORMAT_FIELDS | frozenset(
    "model messages stream stream_options max_tokens max_completion_tokens tools tool_choice parallel_tool_calls suffix"
    " diffusion".split()
)


_NOTHING: Final[tuple[Any, ...]] = (None, [], {})  # as the value of any parameter asks for nothing
NO_PARAMETERS: Final = RequestParameters()
_CHAT_API: Final = TargetApi.CHAT  # finding a member in its class takes 0.2 µs


def read_parameters(
    document: Mapping[str, Any], nested: Iterable[str] = (), media: frozenset[str] = frozenset()
) -> tuple[RequestParameters, frozenset[Capability]]:
    """The parameters of a request body that may have an effect, and the capabilities that they need. `nested` are the
    names of those that are present within messages and tools. `media`: see RequestParameters."""
    names, fields, unknown, needs = [*nested], [], [], []
    for name, value in document.items():
        if name in HANDLED:
            continue
        parameter = PARAMETERS.get(name)
        if parameter is None:
            if value not in _NOTHING:
                unknown.append(name)
        elif parameter.may_have_effect(value):
            names.append(name)
            if parameter.is_hint or not parameter.has_effect(value) or name == "n":
                continue
            if parameter.capability is None:
                fields.append(name)
            else:
                needs.append(parameter.capability)
    if not names and not unknown and not media:
        return NO_PARAMETERS, frozenset()
    parameters = RequestParameters(
        names=frozenset(names + unknown), fields=frozenset(fields), unknown=frozenset(unknown), media=media
    )
    return parameters, frozenset(needs)


def is_without_effect(name: str, value: Any) -> bool:
    """Whether a field may be left out whatever the target: it is null, or unknown and empty."""
    if value is None:
        return True
    if name in NESTS:  # whose format was translated, if it has one
        return isinstance(value, dict) and all(each is None and key in FORMAT_FIELDS for key, each in value.items())
    return name not in HANDLED and name not in PARAMETERS and value in _NOTHING


class Treatment(StrEnum):
    """What happens to a parameter that has an effect. Values without effect are left out unless it is `passed`."""

    PASSED = "passed"  # unchanged, whatever its value
    WITH_EFFECT = "with effect"  # passed on if it has an effect: the server decides
    LEFT_OUT = "left out"
    IGNORED = "ignored"  # left out and named in the response, by the default of `ignore`
    CALLS = "n calls"  # one call for each choice
    REFUSED = "refused"  # the target is skipped as unsupported


def treatment(name: str, capabilities: Capabilities, ignore: frozenset[str] = frozenset()) -> Treatment:
    """What happens to a parameter of the table at a target with these capabilities."""
    parameter = PARAMETERS[name]
    if name in ignore:
        return Treatment.IGNORED
    if name not in not_taken(capabilities):
        return Treatment.PASSED
    if parameter.is_hint:
        return Treatment.LEFT_OUT
    if name == "n":
        return Treatment.CALLS
    if not is_left_to_server(parameter, capabilities):
        return Treatment.REFUSED
    return Treatment.PASSED if parameter.unthinking and not parameter.off else Treatment.WITH_EFFECT


def is_left_to_server(parameter: Parameter, capabilities: Capabilities) -> bool:
    """Whether a parameter that the target is not known to take is sent to it, if it has an effect."""
    if parameter.capability is None:
        return capabilities.is_open and parameter.name not in capabilities.missing
    return parameter.capability in capabilities.passes


def lacking(target: Target, capabilities: Capabilities, query: Query) -> frozenset[str]:
    """Names of the capabilities and parameters that a request needs, and that the target neither takes nor ignores."""
    asked = query.parameters
    is_chat = query.beyond_chat.api is _CHAT_API
    has_others = asked.fields or asked.unknown or asked.media or asked.hosted
    if is_chat and not has_others and query.needs <= capabilities.supported:
        return frozenset()
    missing = {need.value for need in query.needs - capabilities.supported - capabilities.passes}
    if passes_responses(target, capabilities, query):
        missing.discard(Capability.CHAT.value)
    else:
        missing.update(asked.hosted)
    if not is_chat:
        missing |= _lacking_api(target, capabilities, query)
    if capabilities.is_open:
        missing.update(asked.fields & capabilities.missing)
    else:
        missing.update(asked.fields | asked.unknown)
    if Capability.IMAGES not in capabilities.supported:  # a target for text only
        missing |= asked.media
    return frozenset(missing - capabilities.fields - target.ignore)


_DECISION_CHAT: Final = frozenset({Capability.CHAT, Capability.JSON_SCHEMA})  # of targets without decisions


def api_for(target: Target, capabilities: Capabilities | None, query: Query) -> TargetApi:
    """The API of a target that a request is sent to. A text completion becomes a chat completion where the target has
    no text completions, or none with a suffix. Capabilities are None for a worker that was not polled yet."""
    if query.beyond_chat is A_CHAT:
        return _CHAT_API
    if query.beyond_chat.api is TargetApi.DECISIONS:
        return _decisions_api(target, capabilities)
    if passes_responses(target, capabilities, query):
        return TargetApi.RESPONSES
    if query.beyond_chat.api is not TargetApi.COMPLETIONS:
        return query.beyond_chat.api
    if capabilities is None:
        return TargetApi.COMPLETIONS if target.kind is Kind.WORKER else TargetApi.CHAT
    if target.kind is Kind.LITELLM or Capability.COMPLETIONS not in capabilities.supported:
        return TargetApi.CHAT
    has_suffix = any(prompt.suffix is not None and prompt.marked is None for prompt in query.beyond_chat.prompts)
    return TargetApi.CHAT if has_suffix and Capability.SUFFIX not in capabilities.supported else TargetApi.COMPLETIONS


def passes_responses(target: Target, capabilities: Capabilities | None, query: Query) -> bool:
    """Whether a request for a response is sent to the target as such, and not as a chat."""
    if query.beyond_chat.response_body is None or capabilities is None or target.kind is not Kind.OPENAI:
        return False
    return Capability.RESPONSES in capabilities.supported


def _decisions_api(target: Target, capabilities: Capabilities | None) -> TargetApi:
    if capabilities is None:
        return TargetApi.DECISIONS if target.kind is Kind.WORKER else TargetApi.CHAT
    has_own = target.kind is not Kind.LITELLM and Capability.DECISIONS in capabilities.supported
    return TargetApi.DECISIONS if has_own else TargetApi.CHAT


def _lacking_api(target: Target, capabilities: Capabilities, query: Query) -> set[str]:
    """Token ids cannot be sent as a message."""
    if query.beyond_chat.api is TargetApi.EMBEDDINGS:
        return {Capability.EMBEDDINGS.value} if target.kind is Kind.LITELLM else set()
    if query.beyond_chat.api is TargetApi.DECISIONS:
        is_asked_as_chat = api_for(target, capabilities, query) is TargetApi.CHAT
        return {need.value for need in _DECISION_CHAT - capabilities.supported} if is_asked_as_chat else set()
    if api_for(target, capabilities, query) is TargetApi.COMPLETIONS:
        is_worker = target.kind is Kind.WORKER and Capability.LOGPROBS in query.needs
        # One that denoises has log-probabilities of labels only, in chats.
        return {Capability.LOGPROBS.value} if is_worker and not _scores_tokens(capabilities) else set()
    if query.beyond_chat.scores_prompts:
        return {Capability.COMPLETIONS.value}
    is_text = all(isinstance(prompt.text, str) for prompt in query.beyond_chat.prompts)
    if is_text and Capability.CHAT in capabilities.supported:
        return set()
    is_taken = target.kind is not Kind.LITELLM and Capability.COMPLETIONS in capabilities.supported
    return {(Capability.SUFFIX if is_taken else Capability.COMPLETIONS).value}


def _scores_tokens(capabilities: Capabilities) -> bool:
    return Capability.PROMPT_LOGPROBS in capabilities.supported


def ignored_by(target: Target, query: Query) -> tuple[str, ...]:
    """The parameters of a request that have an effect and that are left out: the policy tells the target to ignore
    them, or the gateway cannot honour them."""
    ignored = query.beyond_chat.ignored
    if ignored and passes_responses(target, target.capabilities, query):
        ignored -= NOT_OF_CHATS
    if target.ignore:
        ignored |= target.ignore & query.parameters.names
    return tuple(sorted(ignored)) if ignored else ()


_NOT_TAKEN: Final[dict[int, tuple[Capabilities, Mapping[str, Parameter]]]] = {}
_MAX_CACHED: Final = 256


def not_taken(capabilities: Capabilities) -> Mapping[str, Parameter]:
    """The known parameters that a target with these capabilities does not take. Cached by identity: hashing would take
    longer than all the rest of `request_body`."""
    known = _NOT_TAKEN.get(id(capabilities))
    if known is not None:
        return known[1]
    if len(_NOT_TAKEN) >= _MAX_CACHED:
        _NOT_TAKEN.clear()
    found = _parameters_not_taken(capabilities)
    _NOT_TAKEN[id(capabilities)] = capabilities, found  # which keeps the id from being reused
    return found


def _parameters_not_taken(capabilities: Capabilities) -> Mapping[str, Parameter]:
    def is_taken(name: str, parameter: Parameter) -> bool:
        return name in capabilities.fields or parameter.capability in capabilities.supported

    return {name: parameter for name, parameter in PARAMETERS.items() if not is_taken(name, parameter)}
