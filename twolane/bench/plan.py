"""The schedule of a load: prompts from a JSON Lines file, and arrival times drawn from a seed before the load starts.

A line is an OpenAI chat body (`messages`, ...), or `{"prompt": ..., "expect": ..., "schema": ...}` with the last two
optional, or a line of a decision log; a log holds sizes and times but no text, so text of that size is generated.
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
    """One request to send. `expect` is the correct response, if known; `at_s` its time in a decision log, in seconds
    since the log's first request."""

    body: Mapping[str, Any]
    expect: str | None = None
    at_s: float | None = None

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """The JSON Schema of its response format."""
        shape = self.body.get("response_format")
        named = shape.get("json_schema") if isinstance(shape, Mapping) else None
        found = named.get("schema") if isinstance(named, Mapping) else None
        return found if isinstance(found, Mapping) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A prompt and its scheduled time, in seconds since the start of the load."""

    due_s: float
    prompt: Prompt


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Read a JSON Lines file. Raises WrongUseError naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as fault:
        raise WrongUseError(f"cannot read {path}: {getattr(fault, 'strerror', None) or fault}") from None
    prompts = [_prompt(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise WrongUseError(f"{path}: no prompts found")
    begin_s = min((prompt.at_s for prompt in prompts if prompt.at_s is not None), default=0.0)
    return tuple(prompt if prompt.at_s is None else _shifted(prompt, begin_s) for prompt in prompts)


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Arrival times of a Poisson process: independent clients, `rate` requests per second on average."""
    rng = random.Random(seed)  # noqa: S311 - a load, not a secret
    arrivals, now_s = [], rng.expovariate(rate)
    while now_s < seconds:
        arrivals.append(now_s)
        now_s += rng.expovariate(rate)
    return arrivals


def constant(rate: float, seconds: float) -> list[float]:
    """Arrival times at equal distances."""
    return [number / rate for number in range(int(rate * seconds))]


def schedule(arrivals: Sequence[float], prompts: Sequence[Prompt], seed: int) -> tuple[Call, ...]:
    """Assign a prompt to every arrival: all prompts in shuffled order, repeatedly."""
    order = list(prompts)
    random.Random(seed).shuffle(order)  # noqa: S311
    return tuple(Call(due_s=due_s, prompt=order[number % len(order)]) for number, due_s in enumerate(arrivals))


def replay(prompts: Sequence[Prompt], *, faster: float = 1.0) -> tuple[Call, ...]:
    """Schedule the times of a decision log, `faster` times as fast. Raises WrongUseError for prompts without a time."""
    calls = [Call(due_s=prompt.at_s / faster, prompt=prompt) for prompt in prompts if prompt.at_s is not None]
    if len(calls) < len(prompts):
        raise WrongUseError("--arrivals log: every line of the file must come from a decision log")
    return tuple(sorted(calls, key=lambda call: call.due_s))


def _prompt(line: str, where: str) -> Prompt:
    try:
        read = json.loads(line)
    except ValueError as fault:
        raise WrongUseError(f"{where}: not JSON: {fault}") from None
    if not isinstance(read, dict):
        raise WrongUseError(f"{where}: must be a JSON object")
    if isinstance(read.get("messages"), list):
        expect = read.pop("expect", None)
        return Prompt(body=MappingProxyType(read), expect=_text(expect, f"{where}: expect"))
    if isinstance(read.get("prompt"), str):
        return _short(read, where)
    if "attempts" in read and "time" in read:
        return _logged(read, where)
    raise WrongUseError(f"{where}: unknown kind of line (expected {_KINDS})")


def _short(read: dict[str, Any], where: str) -> Prompt:
    known = {"prompt", "expect", "schema"}
    if unknown := sorted(set(read) - known):
        raise WrongUseError(f"{where}: unknown key {unknown[0]!r} (choose from {', '.join(sorted(known))})")
    body: dict[str, Any] = {"messages": [{"role": "user", "content": read["prompt"]}]}
    if (schema := read.get("schema")) is not None:
        if not isinstance(schema, dict):
            raise WrongUseError(f"{where}: schema must be an object")
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return Prompt(body=MappingProxyType(body), expect=_text(read.get("expect"), f"{where}: expect"))


def _logged(read: dict[str, Any], where: str) -> Prompt:
    input_tokens, output_tokens = read.get("input_tokens") or 1, read.get("output_tokens") or 1
    try:
        at_s = datetime.fromisoformat(read["time"]).timestamp()
        text = " ".join(_WORDS[number % len(_WORDS)] for number in range(max(1, int(input_tokens))))
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": max(1, int(output_tokens))}
    except (TypeError, ValueError) as fault:
        raise WrongUseError(f"{where}: {fault}") from None
    return Prompt(body=MappingProxyType(body), at_s=at_s)


def _shifted(prompt: Prompt, begin_s: float) -> Prompt:
    assert prompt.at_s is not None
    return Prompt(body=prompt.body, expect=prompt.expect, at_s=prompt.at_s - begin_s)


def _text(value: object, where: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise WrongUseError(f"{where} must be a string")
    return value
