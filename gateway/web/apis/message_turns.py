"""The turns of Anthropic's Messages API as chat messages.

Results of tools become `tool` messages, before what else their turn says. Documents and search results become text.
Blocks that only Anthropic's servers understand are refused by name.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from gateway.errors import InvalidField
from gateway.upstreams.messages_options import THOUGHTS
from twolane.process import exact_json

Block = dict[str, Any]
ChatMessage = dict[str, Any]

_THINKING: Final = ("thinking", "redacted_thinking")
# Text in which Claude Code names its version and a hash of the conversation, which would make every prefix a new one.
_BILLING: Final = "x-anthropic-billing-header:"
_ERROR: Final = "Error: "
_IMAGE_FOLLOWS: Final = "The image is in the next message."


def chat_messages(system: str | list[Block] | None, turns: list[dict[str, Any]]) -> list[ChatMessage]:
    """The messages of a chat. Raises InvalidField for a block that a chat cannot contain."""
    messages: list[ChatMessage] = []
    blocks = [block for block in _blocks(system) if not str(block.get("text")).startswith(_BILLING)]
    if blocks:
        messages.append({"role": "system", "content": _content(_parts(blocks, "system"))})
    for number, turn in enumerate(turns):
        write = _WRITERS[turn["role"]]
        messages += write(_blocks(turn.get("content")), f"messages[{number}].content")
    return messages


def _system(blocks: list[Block], where: str) -> list[ChatMessage]:
    return [{"role": "system", "content": _content(_parts(blocks, where))}]


def _user(blocks: list[Block], where: str) -> list[ChatMessage]:
    """Chats require the results of tools directly behind the calls, and images of results in a message of the user."""
    results: list[ChatMessage] = []
    parts: list[Block] = []
    for number, block in enumerate(blocks):
        place = f"{where}[{number}]"
        if block["type"] == "tool_result":
            result, images = _result(block, place)
            results.append(result)
            parts += images
        else:
            parts += _part(block, place)
    return results + ([{"role": "user", "content": _content(parts)}] if parts or not results else [])


def _result(block: Block, place: str) -> tuple[ChatMessage, list[Block]]:
    """The message of a tool's result, and its images."""
    call_id = _required(block, "tool_use_id", place)
    parts = _parts(_blocks(block.get("content")), f"{place}.content")
    images = [part for part in parts if part["type"] != "text"]
    text = "\n".join(part["text"] for part in parts if part["type"] == "text") or (_IMAGE_FOLLOWS if images else "")
    message = {"role": "tool", "tool_call_id": call_id, "content": _ERROR + text if block.get("is_error") else text}
    return message | _cache_control(block), images


def _assistant(blocks: list[Block], where: str) -> list[ChatMessage]:
    parts: list[Block] = []
    calls: list[Block] = []
    thoughts: list[str] = []
    for number, block in enumerate(blocks):
        place = f"{where}[{number}]"
        if block["type"] == "tool_use":
            calls.append(_call(block, place))
        elif block["type"] in _THINKING:
            thoughts.append(block.get("thinking") or "")
        else:
            parts += _part(block, place)
    message: ChatMessage = {"role": "assistant", "content": _content(parts) if parts or not calls else None}
    if thought := "\n".join(filter(None, thoughts)):
        message[THOUGHTS] = thought
    if calls:
        message["tool_calls"] = calls
    return [message]


_WRITERS: Final = {"system": _system, "user": _user, "assistant": _assistant}


def _call(block: Block, place: str) -> Block:
    arguments = exact_json.dumps(block.get("input") or {}).decode()
    name, call_id = _required(block, "name", place), _required(block, "id", place)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _blocks(content: str | list[Block] | None) -> list[Block]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content or []


def _content(parts: list[Block]) -> str | list[Block]:
    """One text as a string, which every chat template takes; empty texts among others are left out."""
    kept = [part for part in parts if part["type"] != "text" or part["text"]]
    if not kept:
        return ""
    return kept[0]["text"] if len(kept) == 1 and kept[0].keys() == {"type", "text"} else kept


def _parts(blocks: Iterable[Block], where: str) -> list[Block]:
    return [part for number, block in enumerate(blocks) for part in _part(block, f"{where}[{number}]")]


def _part(block: Block, place: str) -> list[Block]:
    match block["type"]:
        case "text":
            return [_text(_required(block, "text", place, may_be_empty=True)) | _cache_control(block)]
        case "image":
            return [{"type": "image_url", "image_url": {"url": _image_url(block, place)}} | _cache_control(block)]
        case "document":
            return _document(block, place)
        case "search_result":
            heading = "\n".join(str(block[name]) for name in ("title", "source") if block.get(name))
            return [_text(heading), *_parts(_blocks(block.get("content")), f"{place}.content")]
        case "tool_reference":  # a tool that a search has found; it is among `tools`
            return [_text(str(block.get("tool_name") or ""))]
    param = f"{place}.type"
    raise InvalidField(f"Blocks of type {block['type']!r} at {param!r} are not supported.", param=param)


def _image_url(block: Block, place: str) -> str:
    source = _source(block, place)
    if source.get("type") == "url":
        return _required(source, "url", f"{place}.source")
    if source.get("type") == "base64":
        media_type, data = (_required(source, name, f"{place}.source") for name in ("media_type", "data"))
        return f"data:{media_type};base64,{data}"
    raise _unsupported_source(source, place, "base64 and url")


def _document(block: Block, place: str) -> list[Block]:
    source = _source(block, place)
    match source.get("type"):
        case "text":
            parts = [_text(_required(source, "data", f"{place}.source", may_be_empty=True))]
        case "content":
            parts = _parts(_blocks(source.get("content")), f"{place}.source.content")
        case _:
            raise _unsupported_source(source, place, "text and content")
    heading = "\n".join(str(block[name]) for name in ("title", "context") if block.get(name))
    return [*([_text(heading)] if heading else []), *parts]


def _source(block: Block, place: str) -> Mapping[str, Any]:
    source = block.get("source")
    if not isinstance(source, dict):
        raise InvalidField(f"'{place}.source' must be an object.", param=f"{place}.source")
    return source


def _unsupported_source(source: Mapping[str, Any], place: str, allowed: str) -> InvalidField:
    param = f"{place}.source.type"
    return InvalidField(
        f"Sources of type {source.get('type')!r} at {param!r} are not supported; {allowed} are.", param=param
    )


def _required(block: Mapping[str, Any], name: str, place: str, *, may_be_empty: bool = False) -> str:
    value = block.get(name)
    if not isinstance(value, str) or not (value or may_be_empty):
        raise InvalidField(f"'{place}.{name}' is required.", param=f"{place}.{name}")
    return value


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _cache_control(block: Block) -> Block:
    given = block.get("cache_control")
    return {} if given is None else {"cache_control": given}
