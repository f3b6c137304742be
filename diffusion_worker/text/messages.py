"""Prepares messages for a chat template: old thoughts removed, tool calls as values.

For templates without tool support, tools, tool calls and tool results are written as text.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

from diffusion_worker.constraints.tool_calls import CLOSE_TAG, OPEN_TAG
from diffusion_worker.text.channels import THOUGHT

# An unclosed thought extends to the end: the answer was cut off while thinking.
_THOUGHT_BLOCK = re.compile("{}.*?(?:{}|\\Z)\\s*".format(*map(re.escape, THOUGHT)), re.DOTALL)
ASSISTANT, USER, TOOL = "assistant", "user", "tool"
SYSTEMS = ("system", "developer")
_TEXT: Final = "text"
_BEFORE_TOOLS: Final = "These functions can be called:"
_AFTER_TOOLS: Final = (
    f'A call is written {OPEN_TAG}{{"name": "...", "arguments": {{...}}}}{CLOSE_TAG}; '
    "several stand one behind the other."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PastCall:
    """A tool call in an earlier assistant message. `arguments` is text if it is not a JSON object: a call that was cut
    off, for example."""

    id: str
    name: str
    arguments: Mapping[str, Any] | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message; assistant messages may have a thought and tool calls, tool messages refer to a call."""

    role: str
    content: str
    thought: str = ""
    calls: tuple[PastCall, ...] = ()
    call_id: str | None = None  # of a tool message: the tool call it belongs to


def without_old_thoughts(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages without outdated thoughts, as the checkpoint was trained to see them.

    Thoughts after the last user message are kept, so that the model can continue after a tool call. Earlier thoughts,
    and thoughts written in the content, are removed."""
    last_user = max((at for at, message in enumerate(messages) if message.role == USER), default=-1)
    return tuple(
        _without_thought(message, keep=at > last_user) if message.role == ASSISTANT else message
        for at, message in enumerate(messages)
    )


def template_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Messages in the form that most templates expect: OpenAI objects, arguments as values."""
    return [_turn(message) for message in messages]


def folded_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Messages for templates that expect `tool_responses` in the assistant message instead of tool messages."""
    turns: list[dict[str, Any]] = []
    for turn in template_messages(messages):
        caller = turns[-1] if turns and turns[-1]["role"] == ASSISTANT else None
        if turn["role"] != TOOL or caller is None:
            turns.append(turn)
            continue
        response = {"name": _name_of(turn.get("tool_call_id"), caller), "response": turn["content"]}
        caller.setdefault("tool_responses", []).append(response)
    return turns


def plain_messages(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """The conversation for templates without tool support.

    Tools (OpenAI objects) are appended to the system message, which is created if missing. Tool calls are appended to
    the text of their message, and tool results become user messages."""
    names = {call.id: call.name for message in messages for call in message.calls}
    turns: list[Message] = []
    for are_results, group in groupby(messages, lambda message: message.role == TOOL):
        if are_results:
            results = [_tool_response(names.get(each.call_id or "", "unknown"), each.content) for each in group]
            turns.append(Message(role=USER, content="\n".join(results)))
        else:
            turns.extend(map(_with_calls, group))
    return tuple(_with_tools(tools, turns) if tools else turns)


def _with_tools(tools: Sequence[Mapping[str, Any]], turns: Sequence[Message]) -> list[Message]:
    listed = "\n".join([_BEFORE_TOOLS, *(_json(tool["function"]) for tool in tools), _AFTER_TOOLS])
    if turns and turns[0].role in SYSTEMS:
        return [replace(turns[0], content=f"{turns[0].content}\n\n{listed}"), *turns[1:]]
    return [Message(role=SYSTEMS[0], content=listed), *turns]


def _with_calls(message: Message) -> Message:
    calls = [
        f"{OPEN_TAG}{_json({'name': call.name, 'arguments': call.arguments})}{CLOSE_TAG}" for call in message.calls
    ]
    text = [message.content] if message.content else []
    return replace(message, content="\n".join([*text, *calls]), calls=())


def _tool_response(name: str, content: str) -> str:
    return f"<tool_response>{_json({'name': name, 'content': content})}</tool_response>"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _without_thought(message: Message, *, keep: bool) -> Message:
    return Message(
        role=message.role,
        content=_THOUGHT_BLOCK.sub("", message.content),
        thought=message.thought if keep else "",
        calls=message.calls,
    )


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thought:
        turn["reasoning_content"] = message.thought
    if message.calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _values(call.arguments)}}
            for call in message.calls
        ]
    if message.call_id is not None:
        turn["tool_call_id"] = message.call_id
    return turn


def _values(arguments: Mapping[str, Any] | str) -> dict[str, Any]:
    """Arguments as templates expect them. Many iterate over the members, so text becomes the value of one."""
    return {_TEXT: arguments} if isinstance(arguments, str) else dict(arguments)


def _name_of(call_id: str | None, caller: Mapping[str, Any]) -> str:
    names = {call["id"]: call["function"]["name"] for call in caller.get("tool_calls", ())}
    return str(names.get(call_id, "unknown"))
