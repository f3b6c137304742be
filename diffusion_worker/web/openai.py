"""OpenAI's chat completion request, parsed once into a record.

What this issue's surface honours is read; what would have no effect anyway is accepted; everything else is refused by
name. A `prediction` warms the first canvas. A `response_format` is best effort: its schema must be valid, the answer is
whatever the checkpoint makes of the conversation. Knows no sockets, no engine and no torch.
"""

import dataclasses
import re
from dataclasses import dataclass

import orjson

from diffusion_worker.text.chat_template import TURNS_ONLY, Abilities
from diffusion_worker.text.conversation import Message
from diffusion_worker.web.fields import MAX_DEPTH, Fields, is_deeper
from diffusion_worker.web.problems import InvalidJson, InvalidType
from diffusion_worker.web.schemas import check_schema
from diffusion_worker.web.surface import check_surface
from diffusion_worker.web.tools import NO_TOOLS, Tools, parse_thinking, parse_tools
from diffusion_worker.web.turns import parse_messages, parse_text

MAX_STOPS = 4

_FORMAT_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """The numbers of the extension object `diffusion`; None keeps the checkpoint's own."""

    steps: int | None = None
    entropy_bound: float | None = None
    t_min: float | None = None
    t_max: float | None = None
    canvas_length: int | None = None

    def given(self) -> dict[str, float]:
        """What was set, by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What a client wants, checked; only prompt length and model id are still open."""

    model: str
    messages: tuple[Message, ...]
    tools: Tools = NO_TOOLS
    thinking: bool | None = None  # None: as the template has it
    max_tokens: int | None = None
    seed: int | None = None
    temperature: float | None = None
    stops: tuple[str, ...] = ()
    is_stream: bool = False
    include_usage: bool = False
    prediction: str | None = None
    overrides: Overrides = Overrides()
    deadline_ms: float | None = None


def parse_chat(body: bytes, abilities: Abilities = TURNS_ONLY) -> ChatRequest:
    """A request body, read and checked whole, for a checkpoint that can so much. Raises a BadAsk that names the first
    field found wrong."""
    fields = parse_body(body)
    check_surface(fields)
    _check_format(fields.part("response_format"))
    is_stream = fields.flag("stream") or False
    deadline_ms, overrides = _parse_diffusion(fields.part("diffusion"))
    return ChatRequest(
        model=fields.nonempty("model"),
        messages=parse_messages(fields, abilities),
        tools=parse_tools(fields, abilities),
        thinking=parse_thinking(fields, abilities),
        max_tokens=_parse_max_tokens(fields),
        seed=fields.whole("seed", -(2**63), 2**63 - 1),
        temperature=fields.number("temperature", 0.0, 2.0),
        stops=_parse_stops(fields),
        is_stream=is_stream,
        include_usage=_parse_include_usage(fields, is_stream),
        prediction=_parse_prediction(fields.part("prediction")),
        overrides=overrides,
        deadline_ms=deadline_ms,
    )


def parse_body(body: bytes) -> Fields:
    """The JSON object of a body, no deeper than MAX_DEPTH. Raises InvalidJson."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"The body is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise InvalidJson("The body must be a JSON object.")
    if is_deeper(value, MAX_DEPTH):
        raise InvalidJson(f"The body is nested deeper than {MAX_DEPTH} levels.")
    return Fields(value)


def _parse_max_tokens(fields: Fields) -> int | None:
    older = fields.whole("max_tokens", 1, 2**31 - 1)
    newer = fields.whole("max_completion_tokens", 1, 2**31 - 1)
    if older is not None and newer is not None and older != newer:
        raise fields.invalid("max_tokens", "contradicts 'max_completion_tokens'.")
    return older if newer is None else newer


def _parse_stops(fields: Fields) -> tuple[str, ...]:
    value = fields.raw("stop")
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise InvalidType("'stop' must be a string or an array of strings.", param="stop")
    if len(stops) > MAX_STOPS:
        raise fields.invalid("stop", f"must not hold more than {MAX_STOPS} strings.")
    if "" in stops:
        raise fields.invalid("stop", "must not hold an empty string.")
    return tuple(stops)


def _parse_include_usage(fields: Fields, is_stream: bool) -> bool:
    options = fields.part("stream_options")
    if options is None:
        return False
    if not is_stream:
        raise fields.invalid("stream_options", "is only allowed when 'stream' is true.")
    options.only(("include_usage", "include_obfuscation"))
    if options.flag("include_obfuscation"):
        raise options.refuse("include_obfuscation", "is not supported by this model.")
    return options.flag("include_usage") or False


def _parse_prediction(fields: Fields | None) -> str | None:
    if fields is None:
        return None
    fields.only(("type", "content"))
    if fields.nonempty("type") != "content":
        raise fields.invalid("type", "must be 'content'.")
    fields.required("content")
    return parse_text(fields, "content")


def _check_format(fields: Fields | None) -> None:
    if fields is None:
        return
    kind = fields.nonempty("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise fields.invalid("type", "must be one of text, json_object, json_schema.")
    fields.only(("type", "json_schema") if kind == "json_schema" else ("type",))
    if kind == "json_schema":
        fields.required("json_schema")
        _check_named_schema(fields.part("json_schema") or fields)


def _check_named_schema(fields: Fields) -> None:
    fields.only(("name", "description", "schema", "strict"))
    if not _FORMAT_NAME.fullmatch(fields.nonempty("name")):
        raise fields.invalid("name", "must be 1 to 64 letters, digits, '_' or '-'.")
    fields.text("description")
    fields.flag("strict")
    check_schema(fields, "schema")


def _parse_diffusion(fields: Fields | None) -> tuple[float | None, Overrides]:
    """The extension object; ranges that depend on the checkpoint are checked with its recipe."""
    if fields is None:
        return None, Overrides()
    if fields.raw("anchor") is not None:
        raise fields.refuse("anchor", "is not supported by this model.")
    names = [field.name for field in dataclasses.fields(Overrides)]
    fields.only((*names, "anchor", "deadline_ms"))
    overrides = Overrides(
        steps=fields.whole("steps", 1, 4096),
        entropy_bound=fields.number("entropy_bound", 0.0, 1e9),
        t_min=fields.number("t_min", 0.001, 100.0),
        t_max=fields.number("t_max", 0.001, 100.0),
        canvas_length=fields.whole("canvas_length", 1, 4096),
    )
    return fields.number("deadline_ms", 0.0, 1e9), overrides
