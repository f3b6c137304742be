"""Parses a chat request into a Query: size limits, then types, then the fields that routing needs.

The only module that interprets the client's JSON. Whether a model exists is decided later.
"""

import re
import secrets
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import Any

import msgspec
import orjson

from gateway.enums import Capability, FormatKind, Task
from gateway.errors import BadRequest, InvalidField, MalformedBody, UnsupportedMediaType
from gateway.parameters import CACHE_CONTROL, NAME, read_parameters
from gateway.reliability.load_balancing import PREFIX_CHARS
from gateway.routing.classify import SEARCHED_CHARS
from gateway.types import OutputFormat, Query, Tool
from gateway.validation.json_schema import SchemaError, check_pattern, check_schema
from gateway.web.request_schema import (
    ABSENT,
    ALLOWED,
    ChatRequest,
    Message,
    Part,
    ResponseFormat,
    StructuredOutputs,
    ToolEntry,
    is_present,
    must_call,
)
from twolane.process.api_keys import Key
from twolane.process.http.json_body import JsonBodyError, check_json
from twolane.process.trace_context import Trace

MAX_SCHEMA_BYTES = 65_536
LARGE_BYTES = 32_768  # a larger body is parsed in a thread: on the loop, 4 MB would stop all other requests for 50 ms
_METADATA = "metadata"

_decoder = msgspec.json.Decoder(ChatRequest)
_PATH = re.compile(r"(.*) - at `\$\.?(.*)`$", re.DOTALL)
_INDEX = re.compile(r"\[[^\]]*\]")
_SYSTEM = ("system", "developer")
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}


def parse_chat(
    body: bytes,
    headers: dict[bytes, bytes],
    *,
    now_s: float,
    key: Key | None,
    trace: Trace | None = None,
) -> Query:
    """Raises BadRequest (or a subclass) whose `param` names the field or header."""
    body = _checked(body)
    request, document = decode(body)
    output_format = _output_format(request)
    tools = tuple(_tool(*numbered) for numbered in enumerate(request.tools or ()) if _is_function(*numbered))
    task, task_from = _task(request, headers)
    texts = [text_of(message) for message in request.messages]
    images = any(_has_images(message) for message in request.messages if not isinstance(message.content, str))
    parameters, needs = read_parameters(document, _nested_parameters(request))
    return Query(
        request_id=f"req_{secrets.token_hex(12)}",
        model=request.model,
        body=body,
        received_s=now_s,
        system_text=_ends("\n".join(t for m, t in zip(request.messages, texts, strict=True) if m.role in _SYSTEM)),
        last_user_text=_ends(_last_text("user", request.messages, texts)),
        message_count=len(request.messages),
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        private=_private(request, headers) or (key is not None and key.private_only),
        task_hint=task,
        task_hint_from=task_from,
        deadline_ms=_deadline_ms(request, headers),
        principal=key.name if key else None,
        allowed_models=key.models if key else None,
        allowed_routes=key.routes if key else None,
        trace=trace,
        output_format=output_format,
        tools=tools,
        must_call=must_call(request.tool_choice) if tools else None,
        has_tools=bool(request.tools),
        has_prediction=request.prediction is not None,
        has_suffix=request.suffix is not None,
        has_images=images,
        needs=needs | _needs(request, output_format, images=images),
        parameters=parameters,
        n=request.n or 1,
        prompt_chars=sum(map(len, texts)),
        prefix_text="".join(texts[:2])[:PREFIX_CHARS],
        headers=headers,
    )


def unique_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Request headers by name. Raises InvalidField if an `x-twolane-` header is repeated with different values.

    Picking one of the values could send a private request out of the cluster.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name.startswith(b"x-twolane-") and found.get(name, value) != value:
            raise InvalidField(f"{_text(name)!r} is repeated with different values.", param=_text(name))
        found[name] = value
    return found


def check_encoding(headers: dict[bytes, bytes]) -> None:
    """Raises UnsupportedMediaType for a compressed body."""
    encoding = _text(headers.get(b"content-encoding")).lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType(f"The content encoding {encoding!r} is not supported; send the body uncompressed.")


def decode(body: bytes) -> tuple[ChatRequest, dict[str, Any]]:
    """Parses a body, to types and as it is; its depth was checked before any recursive parser reads it."""
    try:
        request = _decoder.decode(body)
        # msgspec does not validate unused fields, and targets receive them
        return request, orjson.loads(body)
    except msgspec.ValidationError as fault:
        raise _invalid_field(str(fault)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, orjson.JSONDecodeError) as fault:
        raise MalformedBody(f"The request body is not valid JSON: {fault}") from None


def _checked(body: bytes) -> bytes:
    """The body without a byte order mark. Raises MalformedBody, or InvalidField for a key that is repeated."""
    try:
        body, keys = check_json(body)
    except JsonBodyError as fault:
        raise (InvalidField(str(fault), param=fault.key) if fault.key else MalformedBody(str(fault))) from None
    for key in keys:
        if key != _METADATA and key.lower() == _METADATA:  # whoever ignores case would read it as private
            raise InvalidField(f"{key!r} must be written {_METADATA!r}.", param=key)
    return body


def text_of(message: Message) -> str:
    """The text of one message, parts joined."""
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text for part in message.content or () if part.text)


def _last_text(role: str, messages: list[Message], texts: list[str]) -> str:
    return next(
        (text for message, text in zip(reversed(messages), reversed(texts), strict=True) if message.role == role), ""
    )


def _ends(text: str) -> str:
    """What the classification reads of a text. The rest of a long one would take up to four times the body's memory."""
    return text if len(text) <= 2 * SEARCHED_CHARS else text[:SEARCHED_CHARS] + text[-SEARCHED_CHARS:]


def _has_images(message: Message) -> bool:
    return isinstance(message.content, list) and any(part.type == "image_url" for part in message.content)


def _invalid_field(fault: str) -> BadRequest:
    found = _PATH.match(fault)
    if found:
        cause, param = found.groups()
        allowed = ALLOWED.get(_INDEX.sub("[]", param)) if cause.startswith("Invalid enum value") else None
        listed = f"; allowed: {', '.join(allowed)}" if allowed else ""
        return InvalidField(f"{cause.replace(' enum', '')} at {param!r}{listed}.", param=param or None)
    missing = re.search(r"required field `(\w+)`", fault)
    return InvalidField(f"{missing[1]!r} is required.", param=missing[1]) if missing else InvalidField(f"{fault}.")


def _output_format(request: ChatRequest) -> OutputFormat | None:
    """At most one constraint on the text: `response_format` or `structured_outputs`."""
    constraint = _from_structured_outputs(request.structured_outputs) if request.structured_outputs else None
    response_format = _from_format(request.response_format) if request.response_format else None
    if constraint and response_format:
        raise InvalidField("Set 'response_format' or 'structured_outputs', not both.", param="structured_outputs")
    return constraint or response_format


def _from_format(requested: ResponseFormat) -> OutputFormat | None:
    if requested.type == "text":
        return None
    if requested.type == "json_object":
        return OutputFormat(form=FormatKind.JSON_OBJECT)
    param = "response_format.json_schema"
    if requested.json_schema is None:
        raise InvalidField(f"{param!r} is required for type 'json_schema'.", param=param)
    if not is_present(requested.json_schema.schema):
        raise InvalidField(f"'{param}.schema' is required.", param=f"{param}.schema")
    schema, digest = _schema(requested.json_schema.schema, f"{param}.schema")
    return OutputFormat(form=FormatKind.JSON_SCHEMA, schema=schema, digest=digest)


def _from_structured_outputs(requested: StructuredOutputs) -> OutputFormat:
    given = [name for name in ("regex", "choice", "template") if getattr(requested, name) is not None]
    if is_present(requested.json):
        given.append("json")
    if len(given) != 1:
        raise InvalidField(
            "'structured_outputs' requires exactly one of regex, choice, template and json.", param="structured_outputs"
        )
    if is_present(requested.json):
        schema, digest = _schema(requested.json, "structured_outputs.json")
        return OutputFormat(form=FormatKind.JSON_SCHEMA, schema=schema, digest=digest)
    if requested.choice is not None:
        return OutputFormat(form=FormatKind.CHOICE, choices=tuple(requested.choice))
    if requested.regex is not None:
        _check_pattern(requested.regex)
        return OutputFormat(form=FormatKind.REGEX, pattern=requested.regex)
    return OutputFormat(form=FormatKind.TEMPLATE, pattern=requested.template)


def _is_function(index: int, entry: ToolEntry) -> bool:
    if entry.type == "function" and entry.function is None:
        param = f"tools[{index}].function"
        raise InvalidField(f"{param!r} is required for type 'function'.", param=param)
    return entry.function is not None


def _tool(index: int, entry: ToolEntry) -> Tool:
    function = entry.function
    assert function is not None
    if not is_present(function.parameters):
        return Tool(name=function.name)
    schema, digest = _schema(function.parameters, f"tools[{index}].function.parameters")
    return Tool(name=function.name, parameters=schema, digest=digest)


def _schema(raw: msgspec.Raw, param: str) -> tuple[Any, str]:
    """The schema and its digest. Raises InvalidField if it is too large or not a valid schema."""
    data = bytes(raw)
    if len(data) > MAX_SCHEMA_BYTES:
        raise InvalidField(f"{param!r} exceeds the limit of {MAX_SCHEMA_BYTES} bytes.", param=param)
    try:
        return _checked_schema(data)
    except SchemaError as fault:
        raise InvalidField(f"{param!r} is not a supported JSON Schema: {fault}", param=param) from None


def _check_pattern(pattern: str) -> None:
    param = "structured_outputs.regex"
    try:
        _checked_pattern(pattern)
    except SchemaError as fault:
        raise InvalidField(f"{param!r} is not a supported regular expression: {fault}", param=param) from None


@lru_cache(maxsize=256)
def _checked_pattern(pattern: str) -> None:
    check_pattern(pattern)


@lru_cache(maxsize=1024)
def _checked_schema(data: bytes) -> tuple[Any, str]:
    """Cached, because applications send the same few schemas repeatedly."""
    schema = msgspec.json.decode(data)
    return schema, check_schema(schema)


def _nested_parameters(request: ChatRequest) -> Iterator[str]:
    """The parameters that are present within messages and tools."""
    if any(message.name is not None for message in request.messages):
        yield NAME
    lists = [message.content for message in request.messages if isinstance(message.content, list)]
    marked: Iterable[Message | ToolEntry | Part] = chain(request.messages, request.tools or (), *lists)
    if any(each.cache_control is not ABSENT for each in marked):
        yield CACHE_CONTROL


def _needs(request: ChatRequest, output_format: OutputFormat | None, *, images: bool) -> frozenset[Capability]:
    """The capabilities that fields other than parameters need; see `read_parameters`."""
    requested = {
        Capability.STREAM: request.stream,
        Capability.TOOLS: request.tools,
        Capability.TOOL_CHOICE: request.tools and request.tool_choice not in (None, "auto", "none"),
        Capability.SUFFIX: request.suffix is not None,
        Capability.IMAGES: images,
    }
    found = [Capability.CHAT, *(capability for capability, is_requested in requested.items() if is_requested)]
    if output_format:
        found.append(Capability(output_format.form.value))
    return frozenset(found)


def _task(request: ChatRequest, headers: dict[bytes, bytes]) -> tuple[Task | None, str]:
    given: Any = _text(headers.get(b"x-twolane-task"))
    source, param = "header", "x-twolane-task"
    if not given:
        given, source, param = (request.metadata or {}).get("task"), "metadata", "metadata.task"
    if given is None:
        return None, ""
    try:
        return Task(given), source
    except ValueError:
        raise InvalidField(f"{param!r} must be one of {', '.join(Task)}.", param=param) from None


def _private(request: ChatRequest, headers: dict[bytes, bytes]) -> bool:
    """Whether the header or the metadata marks the request as private."""
    in_header = _boolean(_text(headers.get(b"x-twolane-private")), "x-twolane-private")
    values = [value for name, value in (request.metadata or {}).items() if name.lower() == "private"]
    in_metadata = [_boolean(value, "metadata.private") for value in values]
    return in_header or any(in_metadata)


def _boolean(value: Any, param: str) -> bool:
    if isinstance(value, bool):
        return value
    boolean = _BOOLEANS.get(value.strip().lower()) if isinstance(value, str) else None
    if boolean is None:  # a typo must not send a private request out of the cluster
        raise InvalidField(f"{param!r} must be true or false.", param=param)
    return boolean


def _deadline_ms(request: ChatRequest, headers: dict[bytes, bytes]) -> float | None:
    """The smaller of header and body."""
    in_body = request.diffusion.deadline_ms if request.diffusion else None
    given = _text(headers.get(b"x-twolane-deadline-ms"))
    if not given:
        return in_body
    try:
        in_header = float(given)
    except ValueError:
        in_header = 0.0
    if not 0 < in_header < float("inf"):
        raise InvalidField("'x-twolane-deadline-ms' must be a positive number.", param="x-twolane-deadline-ms")
    return in_header if in_body is None else min(in_header, in_body)


def _text(value: bytes | None) -> str:
    return value.decode("latin-1").strip() if value else ""
