"""The fields of an OpenAI chat request that routing needs or that have one type at all servers; others are ignored.

msgspec reports an invalid value with its path.
"""

from typing import Annotated, Any, Final, Literal, get_args

import msgspec

from gateway.parameters import MAX_N

MAX_MESSAGES = 4096
MAX_TOOLS = 512
MAX_CHOICES = 4096

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
PredictionType = Literal["content"]
# Values of the fields that allow only a few, by path without indices: msgspec's message does not list them.
ALLOWED: Final = {
    "messages[].role": get_args(Role),
    "prediction.type": get_args(PredictionType),
}
# Raw accepts any JSON, null included, and cannot be in a union; use `is_present`.
ABSENT = msgspec.Raw()
Positive = Annotated[int, msgspec.Meta(ge=1)]


def is_present(raw: msgspec.Raw) -> bool:
    """Whether there is a value other than null."""
    return bytes(raw) not in (b"", b"null")


class Part(msgspec.Struct):
    """One part of a message's content."""

    type: str
    text: str | None = None
    cache_control: msgspec.Raw = ABSENT


class Message(msgspec.Struct):
    """One message. An assistant's message may have tool calls and no content."""

    role: Role
    content: str | list[Part] | None = None
    name: str | None = None
    cache_control: msgspec.Raw = ABSENT


class StreamOptions(msgspec.Struct):
    """Options of a stream."""

    include_usage: bool | None = None


class NamedSchema(msgspec.Struct):
    """`response_format.json_schema`."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    schema: msgspec.Raw = ABSENT


class ResponseFormat(msgspec.Struct):
    """The required format of the response text. Besides OpenAI's fields: `schema` (llama.cpp, Together), `pattern`
    (Together), `value` (TGI), `grammar` (Fireworks)."""

    type: str
    json_schema: NamedSchema | None = None
    schema: msgspec.Raw = ABSENT
    pattern: str | None = None
    value: msgspec.Raw = ABSENT
    grammar: str | None = None


Choices = Annotated[list[str], msgspec.Meta(min_length=1, max_length=MAX_CHOICES)]


class StructuredOutputs(msgspec.Struct):
    """vLLM's extended constraints; exactly one may be set."""

    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None
    template: msgspec.Raw = ABSENT  # our worker's
    structural_tag: msgspec.Raw = ABSENT
    json: msgspec.Raw = ABSENT  # a schema, or its text


class Forms(msgspec.Struct):
    """The fields that ask for an output format, as OpenAI and common engines spell them."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: msgspec.Raw = ABSENT  # vLLM before `structured_outputs`
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    json_schema: msgspec.Raw = ABSENT  # llama.cpp, SGLang
    regex: str | None = None  # SGLang
    ebnf: str | None = None
    structural_tag: msgspec.Raw = ABSENT
    grammar: str | None = None  # llama.cpp
    format: msgspec.Raw = ABSENT  # Ollama: "json" or a schema


class Function(msgspec.Struct):
    """A function that the model may call."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    parameters: msgspec.Raw = ABSENT


class CustomGrammar(msgspec.Struct):
    """The grammar of a custom tool's input."""

    syntax: str | None = None
    definition: str | None = None


class CustomFormat(msgspec.Struct):
    """The format of a custom tool's input."""

    type: str | None = None
    grammar: CustomGrammar | None = None


class CustomTool(msgspec.Struct):
    """A tool whose input is text."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    format: CustomFormat | None = None


class ToolEntry(msgspec.Struct):
    """An entry of `tools`; entries of other types are run by the target itself."""

    type: str
    function: Function | None = None
    custom: CustomTool | None = None
    cache_control: msgspec.Raw = ABSENT


class Prediction(msgspec.Struct):
    """OpenAI's predicted outputs: the text being edited."""

    type: PredictionType
    content: str | list[Part]


class DiffusionOptions(msgspec.Struct):
    """The object `diffusion`; the gateway reads only the deadline."""

    deadline_ms: Annotated[float, msgspec.Meta(gt=0)] | None = None


class ChatRequest(Forms, kw_only=True):
    """A chat completion request, with the fields that routing needs."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    messages: Annotated[list[Message], msgspec.Meta(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_N)] | None = None
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    logit_bias: dict[str, float] | None = None
    extra_body: Forms | None = None  # of clients that send the SDKs' argument itself
    nvext: Forms | None = None  # NIM
    tools: Annotated[list[ToolEntry], msgspec.Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[Function], msgspec.Meta(max_length=MAX_TOOLS)] | None = None
    function_call: Any = None
    suffix: str | None = None
    prediction: Prediction | None = None
    metadata: dict[str, Any] | None = None
    # Left out of requests to some targets: whether a wrong type is refused must not depend on the target.
    service_tier: str | None = None
    store: bool | None = None
    modalities: list[str] | None = None
    diffusion: DiffusionOptions | None = None
