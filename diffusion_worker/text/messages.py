"""The turns of a conversation as a chat template wants them: cleaned of old thoughts, tools and calls as plain values,
or, for templates that know neither, as text.

Knows the control tokens by their text, no ids and no template.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

from diffusion_worker.constraints.tool_calls import CLOSE_TAG, OPEN_TAG
from diffusion_worker.text.channels import THOUGHT

# A block that is not closed reaches to the end: it was cut off while thinking.
_SPELLED_THOUGHT = re.compile("{}.*?(?:{}|\\Z)\\s*".format(*map(re.escape, THOUGHT)), re.DOTALL)
ASSISTANT, USER, TOOL = "assistant", "user", "tool"
SYSTEMS = ("system", "developer")
_BEFORE_TOOLS: Final = "These functions can be called:"
_BEHIND_TOOLS: Final = (
    f'A call is written {OPEN_TAG}{{"name": "...", "arguments": {{...}}}}{CLOSE_TAG}; '
    "several stand one behind the other."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PastCall:
    """A call in an earlier turn of the model."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn: a role and its text; of the model also what it thought and called, of a tool what it answers."""

    role: str
    content: str
    thought: str = ""
    calls: tuple[PastCall, ...] = ()
    call_id: str | None = None  # the call that a tool's turn answers


def without_old_thoughts(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same turns as the checkpoint was trained to see them. A thought belongs to the turn it was thought in: behind
    the last question of the user it stays, so that a model that has called a tool goes on where it was; before it, it
    goes. Thought that stands spelled out in an answer always goes."""
    asked = max((at for at, message in enumerate(messages) if message.role == USER), default=-1)
    return tuple(
        _without_thought(message, keep=at > asked) if message.role == ASSISTANT else message
        for at, message in enumerate(messages)
    )


def template_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Turns as most templates read them: OpenAI's shapes, arguments as values."""
    return [_turn(message) for message in messages]


def folded_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Turns for templates that know no turns of tools, but `tool_responses` within the turn that called them."""
    turns: list[dict[str, Any]] = []
    for turn in template_messages(messages):
        caller = turns[-1] if turns and turns[-1]["role"] == ASSISTANT else None
        if turn["role"] != TOOL or caller is None:
            turns.append(turn)
            continue
        answer = {"name": _name_of(turn.get("tool_call_id"), caller), "response": turn["content"]}
        caller.setdefault("tool_responses", []).append(answer)
    return turns


def plain_messages(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """The same conversation in plain turns. Tools (OpenAI's objects) stand at the end of the first turn, if that is the
    system's, else in one of their own; calls in the text of their turn; what tools answered in turns of the user."""
    names = {call.id: call.name for message in messages for call in message.calls}
    turns: list[Message] = []
    for are_answers, group in groupby(messages, lambda message: message.role == TOOL):
        if are_answers:
            answers = [_answer(names.get(each.call_id or "", "unknown"), each.content) for each in group]
            turns.append(Message(role=USER, content="\n".join(answers)))
        else:
            turns.extend(map(_with_calls, group))
    return tuple(_shown(tools, turns) if tools else turns)


def _shown(tools: Sequence[Mapping[str, Any]], turns: Sequence[Message]) -> list[Message]:
    listed = "\n".join([_BEFORE_TOOLS, *(_json(tool["function"]) for tool in tools), _BEHIND_TOOLS])
    if turns and turns[0].role in SYSTEMS:
        return [replace(turns[0], content=f"{turns[0].content}\n\n{listed}"), *turns[1:]]
    return [Message(role=SYSTEMS[0], content=listed), *turns]


def _with_calls(message: Message) -> Message:
    calls = [
        f"{OPEN_TAG}{_json({'name': call.name, 'arguments': call.arguments})}{CLOSE_TAG}" for call in message.calls
    ]
    said = [message.content] if message.content else []
    return replace(message, content="\n".join([*said, *calls]), calls=())


def _answer(name: str, content: str) -> str:
    return f"<tool_response>{_json({'name': name, 'content': content})}</tool_response>"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _without_thought(message: Message, *, keep: bool) -> Message:
    return Message(
        role=message.role,
        content=_SPELLED_THOUGHT.sub("", message.content),
        thought=message.thought if keep else "",
        calls=message.calls,
    )


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thought:
        turn["reasoning_content"] = message.thought
    if message.calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
            for call in message.calls
        ]
    if message.call_id is not None:
        turn["tool_call_id"] = message.call_id
    return turn


def _name_of(call_id: str | None, caller: Mapping[str, Any]) -> str:
    names = {call["id"]: call["function"]["name"] for call in caller.get("tool_calls", ())}
    return str(names.get(call_id, "unknown"))
