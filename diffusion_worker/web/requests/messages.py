"""Parser of the `messages` of a chat request: roles, text, tool calls and tool results."""

from typing import Any

from diffusion_worker.text.messages import ASSISTANT, TOOL, Message, PastCall
from diffusion_worker.web.requests.fields import MAX_DEPTH, Fields, is_deeper
from twolane.process import exact_json

MAX_MESSAGES = 4096  # as in the gateway
ROLES = ("system", "developer", "user", ASSISTANT, TOOL)
# Fields of recorded assistant messages; accepted only if null or empty.
_EMPTY_IN_MESSAGES = ("audio", "function_call")
_OF_MODEL = ("tool_calls", "reasoning_content", "reasoning", "refusal")
# What other models and providers add to their answers; ignored, because applications send answers back as they were.
_BESIDE_ANSWERS = ("id", "annotations", "reasoning_details")
_OF_TOOLS = ("tool_call_id",)


def parse_messages(fields: Fields) -> tuple[Message, ...]:
    """The messages, at least one. A tool result must refer to an earlier tool call. Raises InvalidRequest."""
    messages: list[Message] = []
    calls: set[str] = set()
    parts = fields.objects("messages")
    if len(parts) > MAX_MESSAGES:
        raise fields.invalid("messages", f"must not contain more than {MAX_MESSAGES} messages.")
    for part in parts:
        message = _parse_message(part)
        if message.call_id is not None and message.call_id not in calls:
            raise part.invalid(
                "tool_call_id", f"{message.call_id!r} is not the id of a tool call in an earlier message."
            )
        calls.update(call.id for call in message.calls)
        messages.append(message)
    if not messages:
        raise fields.invalid("messages", "must contain at least one message.")
    return tuple(messages)


def parse_text(fields: Fields, name: str) -> str:
    """A string, or text parts, which are concatenated."""
    if not isinstance(fields.raw(name), list):
        return fields.text(name) or ""
    return "".join(map(_parse_part, fields.objects(name)))


def _parse_message(fields: Fields) -> Message:
    role = fields.nonempty("role")
    beside = _BESIDE_ANSWERS if role == ASSISTANT else ("annotations",)
    fields.allow_only(("role", "content", "name", *_EMPTY_IN_MESSAGES, *_OF_MODEL, *_OF_TOOLS, *beside))
    fields.text("name")  # chat templates have no place for it
    if role == "function":
        raise fields.refuse("role", f"{role!r} is not supported by this model.")
    if role not in ROLES:
        raise fields.invalid("role", f"must be one of {', '.join(ROLES)}.")
    not_empty = () if role == ASSISTANT else ("annotations", "refusal")
    for name in (*_EMPTY_IN_MESSAGES, *not_empty, *(() if role == TOOL else _OF_TOOLS)):
        if fields.raw(name):
            raise fields.refuse(name, "is not supported by this model.")
    calls = _parse_calls(fields, role)
    if role != ASSISTANT:  # an assistant's message may be empty: it was cut off, refused, or only thought
        fields.required("content")
    return Message(
        role=role,
        content=parse_text(fields, "content") or (fields.text("refusal") or ""),
        thought=_parse_thought(fields) if role == ASSISTANT else "",
        calls=calls,
        call_id=fields.nonempty("tool_call_id") if role == TOOL else None,
    )


def _parse_thought(fields: Fields) -> str:
    return fields.text("reasoning_content") or fields.text("reasoning") or ""


def _parse_calls(fields: Fields, role: str) -> tuple[PastCall, ...]:
    if not fields.raw("tool_calls"):
        return ()
    if role != ASSISTANT:
        raise fields.refuse("tool_calls", "is not supported by this model.")
    return tuple(map(_parse_call, fields.objects("tool_calls")))


def _parse_call(fields: Fields) -> PastCall:
    fields.allow_only(("id", "type", "function", "index"))
    if fields.nonempty("type") != "function":
        raise fields.invalid("type", "must be 'function'.")
    fields.required("function")
    function = fields.object("function") or fields
    function.allow_only(("name", "arguments"))
    return PastCall(id=fields.nonempty("id"), name=function.nonempty("name"), arguments=_parse_arguments(function))


def _parse_arguments(fields: Fields) -> dict[str, Any] | str:
    """The arguments as an object, which chat templates expect; OpenAI clients send them as JSON text.

    Text that is no object stays text: the model wrote it, and the conversation must be able to go on."""
    given = fields.raw("arguments")
    if isinstance(given, dict):
        return given
    text = fields.text("arguments") or ""
    try:
        arguments = exact_json.loads(text) if text.strip() else {}
    except exact_json.JsonError:
        return text
    return arguments if isinstance(arguments, dict) and not is_deeper(arguments, MAX_DEPTH) else text


def _parse_part(fields: Fields) -> str:
    kind = fields.nonempty("type")
    if kind not in ("text", "refusal"):
        raise fields.refuse(kind, "is not supported by this model: content must be text.")
    fields.allow_only(("type", kind, "cache_control"))  # `cache_control`: a hint of other providers
    fields.required(kind)
    return fields.text(kind) or ""
