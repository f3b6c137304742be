"""The input items of a response as the messages of a chat.

A chat completion needs the outputs of an assistant's calls directly behind its message, so outputs are attached to the
message with their call, wherever they stand. Reasoning items are dropped: chats have no place for them, and they can be
encrypted. So are references to reasoning that the gateway returned, which SDKs send by default. Items that only a
provider's own tools create are reported as hosted, see `types.RequestParameters`.
"""

import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec

from gateway.beyond_chat import hosted_name, joined_name
from gateway.errors import InvalidField
from gateway.web.apis.responses.fields import converted
from gateway.web.apis.responses.history import PREVIOUS

_ROLES: Final = ("user", "assistant", "system", "developer")
_NAME = Annotated[str, msgspec.Meta(min_length=1)]
CURE: Final = (
    "the gateway did not store it; send the earlier items themselves in 'input', as SDKs do if 'store' is false"
)
REASONING_ID: Final = "rs_"
_REASONING: Final = re.compile(rf"{REASONING_ID}[0-9a-f]{{24}}_\d+")


class _Message(msgspec.Struct):
    content: str | list[Any]
    role: str


class _FunctionCall(msgspec.Struct):
    call_id: _NAME
    name: _NAME
    arguments: str
    namespace: str | None = None


class _CustomCall(msgspec.Struct):
    call_id: _NAME
    name: _NAME
    input: str
    namespace: str | None = None


class _Output(msgspec.Struct):
    call_id: _NAME
    output: str | list[Any]


class _Reference(msgspec.Struct):
    id: str


class _Text(msgspec.Struct):
    text: str


class _Refusal(msgspec.Struct):
    refusal: str


class _Image(msgspec.Struct):
    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = None


class _File(msgspec.Struct):
    file_data: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    filename: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """The messages of a chat, and the hosted tools whose items the input contains, with the field of each."""

    messages: list[dict[str, Any]]
    hosted: dict[str, str]


def conversation_of(given: Any, instructions: str | None, before: Iterable[Any] = ()) -> Conversation:
    """`given` is the field `input`: a text or a list of items. `before` are the items of the response that it
    continues. Raises InvalidField."""
    reader = _Reader()
    if instructions:
        reader.turns.append(_Turn({"role": "system", "content": instructions}))
    for item in before:
        reader.add(item, PREVIOUS)
    if isinstance(given, str):
        reader.turns.append(_Turn({"role": "user", "content": given}))
    elif isinstance(given, list) and given:
        for number, item in enumerate(given):
            reader.add(item, f"input[{number}]")
    elif given is None:
        raise InvalidField("'input' is required.", param="input")
    else:
        text = "must not be empty" if given == [] else "must be a text or a list of items"
        raise InvalidField(f"'input' {text}.", param="input")
    reader.check_outputs()
    messages = [message for turn in reader.turns for message in turn.messages()]
    if not messages:
        raise InvalidField("'input' has no message and no call.", param="input")
    return Conversation(messages, reader.hosted)


def items_of(given: Any) -> list[Any]:
    """The field `input` as a list of items."""
    return [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given


def is_passed(item: Any) -> bool:
    """Whether a target with responses gets the item. It has stored no reasoning, and that of a chat is not its own."""
    if item.get("type") == "item_reference":
        return False  # to reasoning: all others were resolved or refused
    if item.get("type") != "reasoning":
        return True
    is_ours = _REASONING.fullmatch(str(item.get("id"))) is not None
    return not is_ours and bool(item.get("encrypted_content") or item.get("content"))


@dataclass(slots=True)
class _Turn:
    """One message. That of an assistant who calls tools has their outputs; files are sent behind these."""

    message: dict[str, Any]
    outputs: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)

    def messages(self) -> Iterator[dict[str, Any]]:
        yield self.message
        yield from self.outputs
        if self.files:
            yield {"role": "user", "content": self.files}

    @property
    def takes_calls(self) -> bool:
        return self.message["role"] == "assistant" and not self.outputs


class _Reader:
    def __init__(self) -> None:
        self.turns: list[_Turn] = []
        self.hosted: dict[str, str] = {}
        self._waiting: dict[str, deque[tuple[_Turn, str]]] = defaultdict(deque)  # calls without an output, by call_id

    def add(self, item: Any, at: str) -> None:
        if not isinstance(item, dict):
            raise InvalidField(f"{at!r} must be an object.", param=at)
        match item.get("type") or "message":
            case "message":
                self._add_message(converted(item, _Message, at), at)
            case "function_call":
                call = converted(item, _FunctionCall, at)
                name = joined_name(call.namespace, call.name)
                self._add_call("function", call.call_id, {"name": name, "arguments": call.arguments}, at)
            case "custom_tool_call":
                custom = converted(item, _CustomCall, at)
                name = joined_name(custom.namespace, custom.name)
                self._add_call("custom", custom.call_id, {"name": name, "input": custom.input}, at)
            case "function_call_output" | "custom_tool_call_output":
                self._add_output(converted(item, _Output, at), at)
            case "reasoning":
                pass
            case "item_reference":
                self._add_reference(converted(item, _Reference, at).id, at)
            case str() as kind:
                self.hosted.setdefault(hosted_name(kind), f"{at}.type")
            case _:
                raise InvalidField(f"'{at}.type' must be a text.", param=f"{at}.type")

    def check_outputs(self) -> None:
        """Chat models reject a call without an output, and name it in their own terms."""
        for call_id, calls in self._waiting.items():
            for _, at in calls:
                text = f"The call {call_id!r} has no output in 'input'."
                raise InvalidField(text, param=f"{at}.call_id")

    def _add_reference(self, item_id: str, at: str) -> None:
        """`History` has replaced those that are stored. Reasoning is left out whoever wrote it."""
        if not item_id.startswith(REASONING_ID):
            raise InvalidField(f"The 'item_reference' {item_id!r} cannot be resolved: {CURE}.", param=f"{at}.type")

    def _add_message(self, given: _Message, at: str) -> None:
        if given.role not in _ROLES:
            text = f"Invalid value {given.role!r} at '{at}.role'; allowed: {', '.join(_ROLES)}."
            raise InvalidField(text, param=f"{at}.role")
        content = given.content
        if isinstance(content, list):
            parts = [_part(part, given.role, f"{at}.content[{number}]") for number, part in enumerate(content)]
            content = _simplified(parts, is_text=given.role == "assistant")
        self.turns.append(_Turn({"role": given.role, "content": content}))

    def _add_call(self, kind: str, call_id: str, call: dict[str, Any], at: str) -> None:
        if not (self.turns and self.turns[-1].takes_calls):
            self.turns.append(_Turn({"role": "assistant", "content": None}))
        turn = self.turns[-1]
        turn.message.setdefault("tool_calls", []).append({"id": call_id, "type": kind, kind: call})
        self._waiting[call_id].append((turn, at))

    def _add_output(self, given: _Output, at: str) -> None:
        waiting = self._waiting.get(given.call_id)
        if not waiting:
            text = f"'{at}.call_id' names no call before it that waits for an output."
            raise InvalidField(text, param=f"{at}.call_id")
        turn, _ = waiting.popleft()
        text, files = _output(given.output, at)
        turn.outputs.append({"role": "tool", "tool_call_id": given.call_id, "content": text})
        if files:
            turn.files += [{"type": "text", "text": f"Files in the output of the call {given.call_id}:"}, *files]


def _output(given: str | list[Any], at: str) -> tuple[str, list[dict[str, Any]]]:
    """The text of an output, and its images and files, which the message of a tool cannot contain."""
    if isinstance(given, str):
        return given, []
    parts = [_part(part, "user", f"{at}.output[{number}]") for number, part in enumerate(given)]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    return "\n".join(texts), [part for part in parts if part["type"] != "text"]


def _simplified(parts: list[dict[str, Any]], *, is_text: bool) -> Any:
    """A content that every server takes: a text, where it is one. Those of assistants are texts only."""
    if is_text:
        return "".join(part["text"] for part in parts)
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _part(given: Any, role: str, at: str) -> dict[str, Any]:
    """One part of a message's content or of an output."""
    kind = given.get("type") if isinstance(given, dict) else None
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": converted(given, _Text, at).text}
    if role == "assistant":
        if kind == "refusal":
            return {"type": "text", "text": converted(given, _Refusal, at).refusal}
    elif kind == "input_image":
        return _image(converted(given, _Image, at), at)
    elif kind == "input_file":
        return _file(converted(given, _File, at), at)
    allowed = "input_text, output_text, refusal" if role == "assistant" else "input_text, input_image, input_file"
    if not isinstance(given, dict):
        raise InvalidField(f"{at!r} must be an object.", param=at)
    raise InvalidField(f"Invalid value {kind!r} at '{at}.type'; allowed: {allowed}.", param=f"{at}.type")


def _image(given: _Image, at: str) -> dict[str, Any]:
    if not given.image_url:
        if given.file_id:
            text = f"'{at}.file_id' cannot be resolved: the gateway keeps no files; use 'image_url'."
            raise InvalidField(text, param=f"{at}.file_id")
        raise InvalidField(f"'{at}.image_url' is required.", param=f"{at}.image_url")
    image = {"url": given.image_url}
    return {"type": "image_url", "image_url": image if given.detail is None else {**image, "detail": given.detail}}


def _file(given: _File, at: str) -> dict[str, Any]:
    if given.file_url or not (given.file_data or given.file_id):
        cure = "the gateway fetches no files; use 'file_data'"
        param = f"{at}.file_url" if given.file_url else f"{at}.file_data"
        text = f"{param!r} is not supported: {cure}." if given.file_url else f"{param!r} is required."
        raise InvalidField(text, param=param)
    named = {"file_data": given.file_data, "file_id": given.file_id, "filename": given.filename}
    return {"type": "file", "file": {name: value for name, value in named.items() if value is not None}}
