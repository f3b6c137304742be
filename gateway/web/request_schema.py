"""The fields of an OpenAI chat request that routing needs, as types; other fields are ignored.

msgspec reports an invalid value with its path.
"""

from typing import Annotated, Any, Final, Literal, get_args

import msgspec

MAX_MESSAGES = 4096
MAX_TOOLS = 512
MAX_CHOICES = 4096

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
Format = Literal["text", "json_object", "json_schema"]
PredictionType = Literal["content"]
# Values of the fields that allow only a few, by path without indices: msgspec's message does not list them.
ALLOWED: Final = {
    "messages[].role": get_args(Role),
    "response_format.type": get_args(Format),
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
    """The required format of the response text."""

    type: Format
    json_schema: NamedSchema | None = None


class StructuredOutputs(msgspec.Struct):
    """vLLM's extended constraints; exactly one may be set."""

    regex: str | None = None
    choice: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MAX_CHOICES)] | None = None
    template: str | None = None
    # "json" is equivalent to response_format.
    json: msgspec.Raw = ABSENT


class Function(msgspec.Struct):
    """A function that the model may call."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    parameters: msgspec.Raw = ABSENT


class ToolEntry(msgspec.Struct):
    """An entry of `tools`; only functions have a schema to check."""

    type: str
    function: Function | None = None
    cache_control: msgspec.Raw = ABSENT


def must_call(choice: Any) -> str | None:
    """The function that a `tool_choice` requires; empty for any function; None if no call is required or the value
    is unknown."""
    if choice == "required":
        return ""
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) and name else None


class Prediction(msgspec.Struct):
    """OpenAI's predicted outputs: the text being edited."""

    type: PredictionType
    content: str | list[Part]


class DiffusionOptions(msgspec.Struct):
    """The object `diffusion`; the gateway reads only the deadline."""

    deadline_ms: Annotated[float, msgspec.Meta(gt=0)] | None = None


class ChatRequest(msgspec.Struct):
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
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    logit_bias: dict[str, float] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    tools: Annotated[list[ToolEntry], msgspec.Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Any = None
    suffix: str | None = None
    prediction: Prediction | None = None
    metadata: dict[str, Any] | None = None
    diffusion: DiffusionOptions | None = None
