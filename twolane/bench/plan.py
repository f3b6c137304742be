"""What a load sends and when: prompts read from a file of lines, arrivals drawn from a seed before anything is sent.

Three kinds of line may be mixed: an OpenAI chat body (`messages`, ...); `{"prompt": ..., "expect": ..., "schema": ...}`
with the last two optional; a line of a decision log, which holds sizes and times but no text, so text of that size is
made up. Knows no network.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from twolane.process.flags import WrongUseError

_WORDS: Final = "the order was sent on a ship to the north and came back with half of its load in the new year".split()
_KINDS: Final = '"messages" (a chat body), "prompt", or a line of a decision log'


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One request to send. `expect`: the answer that counts as right, if known; `at_s`: when a log says it came, from
    the first line on."""

    body: Mapping[str, Any]
    expect: str | None = None
    at_s: float | None = None

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """The JSON Schema that its answer was asked to keep to."""
        shape = self.body.get("response_format")
        named = shape.get("json_schema") if isinstance(shape, Mapping) else None
        found = named.get("schema") if isinstance(named, Mapping) else None
        return found if isinstance(found, Mapping) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A prompt and the moment it is due, in seconds from the beginning of the load."""

    due_s: float
    prompt: Prompt


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Read a file of lines. Raises WrongUseError naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as fault:
        raise WrongUseError(f"cannot read {path}: {getattr(fault, 'strerror', None) or fault}") from None
    prompts = [_prompt(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise WrongUseError(f"{path}: no prompts in it")
    begin_s = min((prompt.at_s for prompt in prompts if prompt.at_s is not None), default=0.0)
    return tuple(prompt if prompt.at_s is None else _moved(prompt, begin_s) for prompt in prompts)


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Arrivals of independent clients: `rate` a second on average, for that many seconds."""
    draw = random.Random(seed)  # noqa: S311 - a load, not a secret
    moments, now_s = [], draw.expovariate(rate)
    while now_s < seconds:
        moments.append(now_s)
        now_s += draw.expovariate(rate)
    return moments


def constant(rate: float, seconds: float) -> list[float]:
    """Arrivals like clockwork."""
    return [number / rate for number in range(int(rate * seconds))]


def in_turn(moments: Sequence[float], prompts: Sequence[Prompt], seed: int) -> tuple[Call, ...]:
    """Give every moment a prompt: all of them in a shuffled order, then again."""
    order = list(prompts)
    random.Random(seed).shuffle(order)  # noqa: S311
    return tuple(Call(due_s=due_s, prompt=order[number % len(order)]) for number, due_s in enumerate(moments))


def as_logged(prompts: Sequence[Prompt], *, faster: float = 1.0) -> tuple[Call, ...]:
    """Send at the moments that a log recorded, `faster` times as fast. Raises WrongUseError for prompts without one."""
    calls = [Call(due_s=prompt.at_s / faster, prompt=prompt) for prompt in prompts if prompt.at_s is not None]
    if len(calls) < len(prompts):
        raise WrongUseError("only lines of a decision log say when they came")
    return tuple(sorted(calls, key=lambda call: call.due_s))


def _prompt(line: str, where: str) -> Prompt:
    try:
        read = json.loads(line)
    except ValueError as fault:
        raise WrongUseError(f"{where}: not JSON: {fault}") from None
    if not isinstance(read, dict):
        raise WrongUseError(f"{where}: not an object")
    if isinstance(read.get("messages"), list):
        expect = read.pop("expect", None)
        return Prompt(body=MappingProxyType(read), expect=_text(expect, f"{where}: expect"))
    if isinstance(read.get("prompt"), str):
        return _short(read, where)
    if "attempts" in read and "time" in read:
        return _logged(read, where)
    raise WrongUseError(f"{where}: none of {_KINDS}")


def _short(read: dict[str, Any], where: str) -> Prompt:
    known = {"prompt", "expect", "schema"}
    if unknown := sorted(set(read) - known):
        raise WrongUseError(f"{where}: {unknown[0]!r} is none of {', '.join(sorted(known))}")
    body: dict[str, Any] = {"messages": [{"role": "user", "content": read["prompt"]}]}
    if (schema := read.get("schema")) is not None:
        if not isinstance(schema, dict):
            raise WrongUseError(f"{where}: schema is not an object")
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return Prompt(body=MappingProxyType(body), expect=_text(read.get("expect"), f"{where}: expect"))


def _logged(read: dict[str, Any], where: str) -> Prompt:
    asked, answered = read.get("input_tokens") or 1, read.get("output_tokens") or 1
    try:
        at_s = datetime.fromisoformat(read["time"]).timestamp()
        text = " ".join(_WORDS[number % len(_WORDS)] for number in range(max(1, int(asked))))
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": max(1, int(answered))}
    except (TypeError, ValueError) as fault:
        raise WrongUseError(f"{where}: {fault}") from None
    return Prompt(body=MappingProxyType(body), at_s=at_s)


def _moved(prompt: Prompt, begin_s: float) -> Prompt:
    assert prompt.at_s is not None
    return Prompt(body=prompt.body, expect=prompt.expect, at_s=prompt.at_s - begin_s)


def _text(value: object, where: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise WrongUseError(f"{where} is not a text")
    return value
