"""Parses a chat request into a Query: size limits, then types, then the fields that routing needs.

The only module that interprets the client's JSON. Whether a model exists is decided later.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from gateway.beyond_chat import A_CHAT, BeyondChat
from gateway.enums import Capability, Task
from gateway.errors import BadRequest, InvalidField, MalformedBody, UnsupportedMediaType
from gateway.parameters import CACHE_CONTROL, FORMAT_FIELDS, HANDLED, NAME, NESTS, NO_PARAMETERS, read_parameters
from gateway.policy_types import LocationLimit
from gateway.reliability.load_balancing import PREFIX_CHARS
from gateway.routing import metadata_hints
from gateway.routing.classify import EARLIER_CHARS, SEARCHED_CHARS
from gateway.routing.edit_tags import tagged_code
from gateway.types import OutputFormat, Query
from gateway.web.chat_body.compiled import FIELD_RULES, FORMATS, RARE, read_chat
from gateway.web.chat_body.conversation import Conversation, chat_of
from gateway.web.headers import new_request_id
from gateway.web.offered_tools import ANY_CALL, tool_choice_of, tools_of
from gateway.web.output_format import output_format_of
from gateway.web.request_schema import ABSENT, ALLOWED, MAX_MESSAGES, ChatRequest, Part, ToolEntry
from twolane.process.api_keys import Key
from twolane.process.http.json_body import MAX_VALUES, JsonBodyError, read_json
from twolane.process.locations import locations_of
from twolane.process.records import replaced
from twolane.process.trace_context import Trace

LARGE_BYTES = 32_768  # a larger body is parsed in a thread: on the loop, 4 MB would stop all other requests for 50 ms
_METADATA: Final = "metadata"
_METADATA_CHARS: Final = len(_METADATA)
_LOCATIONS: Final = b"x-twolane-locations"

_Request = TypeVar("_Request", bound=msgspec.Struct)
CHAT: Final = msgspec.json.Decoder(ChatRequest)
_MISSING = re.compile(r"required field `(\w+)`")
_PATH = re.compile(r"(.*) - at `\$\.?(.*)`$", re.DOTALL)
_INDEX = re.compile(r"\[[^\]]*\]")
_KNOWN_PARTS: Final = frozenset({"text", "refusal", "image_url"})
_MEDIA: Final = ("image", "audio", "video", "file")
_HINTS: Final = frozenset(b"x-twolane-%b" % name for name in (b"task", b"deadline-ms", b"private", b"locations"))
_TYPED: Final = HANDLED - FORMAT_FIELDS  # fields that only CHAT reads
_NO_NEEDS: Final[frozenset[Capability]] = frozenset()
_CHAT: Final = frozenset({Capability.CHAT})
_STREAM: Final = frozenset({Capability.CHAT, Capability.STREAM})
_NO_FIELDS: Final[dict[str, Any]] = {}
_value: Final = msgspec.json.decode
_UNREAD: Final = (None, None)


def parse_chat(
    body: bytes,
    headers: dict[bytes, bytes],
    *,
    now_s: float,
    key: Key | None,
    trace: Trace | None = None,
) -> Query:
    """Raises BadRequest (or a subclass) whose `param` names the field or header."""
    spans, chat = read_chat(body, FIELD_RULES, MAX_VALUES, MAX_MESSAGES, PREFIX_CHARS) or _UNREAD
    request = read = None
    if spans is None:
        request, document, body = decode(body, CHAT)
    else:
        request = _typed(body) if chat is None else None
        document = _NO_FIELDS if spans.keys() <= _TYPED else _fields(body, spans)
    nested: list[str] = []
    if request is not None:
        read = Conversation(request.messages)
        nested = _nested_parameters(read, request.tools)
        chat = chat_of(request, read)
    assert chat is not None
    model, count, stream, include_usage, n, system_text, user_text, earlier_text, answer_text, chars, prefix = chat
    parameters, needs = read_parameters(document, nested) if document or nested else (NO_PARAMETERS, _NO_NEEDS)
    own_needs = _STREAM if stream else _CHAT
    code = tagged_code(user_text) if "<" in user_text else None
    if len(body) > 2 * SEARCHED_CHARS:  # no text is longer than the body
        system_text, user_text = _ends(system_text, SEARCHED_CHARS), _ends(user_text, SEARCHED_CHARS)
    if len(earlier_text) + len(answer_text) > EARLIER_CHARS:
        earlier_text, answer_text = _ends(earlier_text, EARLIER_CHARS), _ends(answer_text, EARLIER_CHARS)
    query = Query(
        request_id=new_request_id(),
        model=model,
        body=body,
        spans=spans,
        received_s=now_s,
        system_text=system_text,
        last_user_text=user_text,
        earlier_text=earlier_text,
        answer_text=answer_text,
        message_count=count,
        stream=stream,
        include_usage=include_usage,
        principal=key.name if key else None,
        trace=trace,
        needs=needs | own_needs if needs else own_needs,
        parameters=parameters,
        n=n,
        prompt_chars=chars,
        prefix_text=prefix,
        headers=headers,
        beyond_chat=A_CHAT if code is None else BeyondChat(source=code),
    )
    is_plain = read is None or (not read.parts and RARE.isdisjoint(document if spans is None else spans))
    if is_plain and _HINTS.isdisjoint(headers) and (key is None or not key.is_restricted):
        return query
    if request is None or read is None:  # a common chat has no such field: hints or the key ask for something
        request, read = ChatRequest(model=model, messages=[], stream=stream), Conversation([])
    return _with_rare_fields(query, request, document, read, key)


def _with_rare_fields(
    query: Query, request: ChatRequest, document: dict[str, Any], read: Conversation, key: Key | None
) -> Query:
    """The query with what few requests have: see `RARE`, `_HINTS`, parts of messages, and restrictions of the key."""
    headers = dict(query.headers)
    output_format = None if document.keys().isdisjoint(FORMATS) else output_format_of(request)
    tools = tools_of(request) if request.tools or request.functions else ()
    task, task_from = _task(request, headers)
    images = "image_url" in [part.type for part in read.parts]
    nested = _nested_parameters(read, request.tools)
    parameters, needs = read_parameters(_without_forms(document), nested, _media(read.parts))
    return replaced(
        query,
        private=_private(request, headers) or (key is not None and key.private_only),
        locations=_locations(request, headers, key),
        task_hint=task,
        task_hint_from=task_from,
        deadline_ms=_deadline_ms(request, headers),
        allowed_models=key.models if key else None,
        allowed_routes=key.routes if key else None,
        output_format=output_format,
        tools=tools,
        tool_choice=tool_choice_of(request, tools) if tools else ANY_CALL,
        has_tools=bool(request.tools or request.functions),
        has_prediction=request.prediction is not None,
        has_suffix=request.suffix is not None,
        has_images=images,
        needs=needs | _needs(request, output_format, images=images),
        parameters=parameters,
    )


def unique_headers(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Request headers by name. Raises InvalidField if an `x-twolane-` header is repeated with different values.

    Picking one of the values could send a private request out of the cluster.
    """
    found = dict(headers)
    if len(found) == len(headers):
        return found
    found = {}
    for name, value in headers:
        if name.startswith(b"x-twolane-") and found.get(name, value) != value:
            raise InvalidField(f"{_text(name)!r} is repeated with different values.", param=_text(name))
        found[name] = value
    return found


def check_encoding(headers: dict[bytes, bytes]) -> None:
    """Raises UnsupportedMediaType for a compressed body."""
    if b"content-encoding" not in headers:
        return
    encoding = _text(headers[b"content-encoding"]).lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType(f"The content encoding {encoding!r} is not supported; send the body uncompressed.")


def decode(
    body: bytes, decoder: msgspec.json.Decoder[_Request], *, max_values: int = MAX_VALUES
) -> tuple[_Request, dict[str, Any], bytes]:
    """A body's fields with their types, the whole of it as it is, and its bytes without a byte order mark. Raises
    MalformedBody, or InvalidField for a wrong type and for a key that is repeated."""
    try:
        body, document = read_json(body, max_values=max_values)
        request = decoder.decode(body)
    except JsonBodyError as fault:
        raise (InvalidField(str(fault), param=fault.key) if fault.key else MalformedBody(str(fault))) from None
    except msgspec.ValidationError as fault:
        raise invalid_field(str(fault)) from None
    _check_spelling(document)
    return request, document, body


def _check_spelling(document: dict[str, Any]) -> None:
    """Whoever ignores case would read the metadata as private."""
    for key in document:
        if len(key) == _METADATA_CHARS and key != _METADATA and key.lower() == _METADATA:
            raise InvalidField(f"{key!r} must be written {_METADATA!r}.", param=key)


def last_user_text(request: ChatRequest) -> str:
    """The text of the last message of the user; empty if there is none."""
    return Conversation(request.messages).user_text


def _typed(body: bytes) -> ChatRequest:
    """Raises InvalidField for a wrong type."""
    try:
        return CHAT.decode(body)
    except msgspec.ValidationError as fault:
        raise invalid_field(str(fault)) from None


def _fields(body: bytes, spans: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """The fields that `HANDLED` does not contain or that ask for a format. Raises InvalidField."""
    document = {name: _value(body[start:end]) for name, (start, end) in spans.items() if name not in _TYPED}
    _check_spelling(document)
    return document


def _ends(text: str, chars: int) -> str:
    """What the classification reads of a text. The rest of a long one would take up to four times the body's memory."""
    return text if len(text) <= 2 * chars else text[:chars] + text[-chars:]


def _media(parts: Iterable[Part]) -> frozenset[str]:
    """The types of parts that only some models understand, such as `input_audio` and `file`."""
    types = {part.type for part in parts} - _KNOWN_PARTS
    return frozenset(each for each in types if any(word in each for word in _MEDIA))


def invalid_field(fault: str, within: str = "") -> BadRequest:
    """The error for a message of msgspec; `within` is the field whose value was read."""
    found = _PATH.match(fault)
    cause, path = found.groups() if found else (fault, "")
    param = within + (f".{path}" if within and path and not path.startswith("[") else path)
    if missing := _MISSING.search(cause):
        param = f"{param}.{missing[1]}" if param else missing[1]
        return InvalidField(f"{param!r} is required.", param=param)
    if not found:
        return InvalidField(f"{within!r}: {fault}." if within else f"{fault}.", param=within or None)
    allowed = ALLOWED.get(_INDEX.sub("[]", param)) if cause.startswith("Invalid enum value") else None
    listed = f"; allowed: {', '.join(allowed)}" if allowed else ""
    return InvalidField(f"{cause.replace(' enum', '')} at {param!r}{listed}.", param=param or None)


def _without_forms(document: dict[str, Any]) -> dict[str, Any]:
    """The body without nested objects that only ask for an output format, which the gateway translates."""
    if document.keys().isdisjoint(NESTS):
        return document
    translated = [
        name for name in NESTS if isinstance(document.get(name), dict) and document[name].keys() <= FORMAT_FIELDS
    ]
    return {name: value for name, value in document.items() if name not in translated} if translated else document


def _nested_parameters(read: Conversation, tools: list[ToolEntry] | None) -> list[str]:
    """The parameters that are present within messages and tools."""
    found = [NAME] if read.is_named else []
    if not (read.parts or tools or read.is_marked):
        return found
    marked: list[ToolEntry | Part] = [*(tools or ()), *read.parts]
    if read.is_marked or (marked and any(each.cache_control is not ABSENT for each in marked)):
        found.append(CACHE_CONTROL)
    return found


def _needs(request: ChatRequest, output_format: OutputFormat | None, *, images: bool) -> frozenset[Capability]:
    """The capabilities that fields other than parameters need; see `read_parameters`."""
    if not (request.tools or images or output_format or request.suffix is not None):
        return _STREAM if request.stream else _CHAT
    found = [Capability.CHAT]
    if request.stream:
        found.append(Capability.STREAM)
    if request.tools:
        found.append(Capability.TOOLS)
        if request.tool_choice not in (None, "auto", "none"):
            found.append(Capability.TOOL_CHOICE)
    if request.suffix is not None:
        found.append(Capability.SUFFIX)
    if images:
        found.append(Capability.IMAGES)
    if output_format:
        found.append(Capability(output_format.form.value))
    return frozenset(found)


def _task(request: ChatRequest, headers: dict[bytes, bytes]) -> tuple[Task | None, str]:
    """The task that the client named, and where. In `metadata`, `task` is often the application's own."""
    in_header = _text(headers[b"x-twolane-task"]) if b"x-twolane-task" in headers else ""
    if in_header:
        return _known_task(in_header, "x-twolane-task"), "header"
    metadata = request.metadata
    if not metadata:
        return None, ""
    if metadata.get(metadata_hints.TASK) is not None:
        return _known_task(metadata[metadata_hints.TASK], f"metadata.{metadata_hints.TASK}"), "metadata"
    task = metadata_hints.task_of(metadata.get("task"))
    return task, "metadata" if task is not None else ""


def _known_task(given: Any, param: str) -> Task:
    task = metadata_hints.task_of(given)
    if task is None:
        raise InvalidField(f"{param!r} must be one of {', '.join(Task)}.", param=param)
    return task


def _private(request: ChatRequest, headers: dict[bytes, bytes]) -> bool:
    """Whether the header or the metadata marks the request as private. In `metadata`, `private` may be the
    application's own: only a yes or no has a meaning here. Names in another case count: a request that says it is
    private must not leave the cluster for its spelling."""
    if not request.metadata and b"x-twolane-private" not in headers:
        return False
    given = {"x-twolane-private": _text(headers.get(b"x-twolane-private"))}
    found = []
    for name, value in (request.metadata or {}).items():
        if name.lower() == metadata_hints.PRIVATE and value is not None:
            given[f"metadata.{name}"] = value
        elif name.lower() == "private":
            found.append(bool(metadata_hints.boolean_of(value)))
    # Every value is checked: a typo must not send a private request out of the cluster.
    found += [_boolean(value, param) for param, value in given.items()]
    return any(found)


def _locations(request: ChatRequest, headers: dict[bytes, bytes], key: Key | None) -> tuple[LocationLimit, ...]:
    """What limits the request to locations: header, metadata and key. Each can only narrow."""
    of_key = key.locations if key is not None else None
    if not request.metadata and of_key is None and _LOCATIONS not in headers:
        return ()
    given: dict[str, Any] = {}
    if _LOCATIONS in headers:
        given[_LOCATIONS.decode()] = headers[_LOCATIONS].decode("latin-1")
    for name, value in (request.metadata or {}).items():
        if name.lower() == metadata_hints.LOCATIONS and value is not None:
            given[f"metadata.{name}"] = value
    limits = tuple(LocationLimit(param, _location_list(value, param)) for param, value in given.items())
    return limits if of_key is None else (*limits, LocationLimit("the API key", of_key))


def _location_list(value: Any, param: str) -> frozenset[str]:
    """A typo must not send the request anywhere else."""
    try:
        return locations_of(value if isinstance(value, str) else "")
    except ValueError:
        text = f"{param!r} must be a list of locations with commas, such as 'eu, on-prem'."
        raise InvalidField(text, param=param) from None


def _boolean(value: Any, param: str) -> bool:
    boolean = metadata_hints.boolean_of(value)
    if boolean is None:
        raise InvalidField(f"{param!r} must be true or false.", param=param)
    return boolean


def _deadline_ms(request: ChatRequest, headers: dict[bytes, bytes]) -> float | None:
    """The smaller of header and body."""
    in_body = request.diffusion.deadline_ms if request.diffusion else None
    given = _text(headers[b"x-twolane-deadline-ms"]) if b"x-twolane-deadline-ms" in headers else ""
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
