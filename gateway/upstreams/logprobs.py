"""The confidence of an answer of a server that reports log-probabilities of its tokens, and their removal.

The confidence is the geometric mean probability of the eight least likely tokens: a mean over all tokens hardly falls
when a few of many are wrong. Of fewer tokens it is the mean of all.
"""

import heapq
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

import msgspec

from gateway.types import Delta
from twolane.process import exact_json

WEAKEST: Final = 8
_NAME: Final = b'"logprobs"'
_PLACES: Final = ("response", "output", "item", "content", "part")  # that hold texts, in the originals of responses
_DEPTH: Final = 8  # of those in each other, with the lists between


class _Token(msgspec.Struct):
    logprob: float | None = None


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Choice(msgspec.Struct):
    index: int | None = None
    logprobs: _Logprobs | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] | None = None


_decode: Final = msgspec.json.Decoder(_Completion).decode


def confidence_of(deltas: Iterable[Delta]) -> float | None:
    """The lowest confidence of the choices, from 0 to 1; None if a choice has no log-probability of any token."""
    weakest: dict[int, list[float]] = {}
    for delta in deltas:
        for piece in delta.pieces:
            weakest.setdefault(piece.index, [])
        try:
            choices = _decode(delta.data).choices or []
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # not OpenAI's types: reports none
            continue
        for position, choice in enumerate(choices):
            index = position if choice.index is None else choice.index
            weakest[index] = heapq.nsmallest(WEAKEST, (*weakest.get(index, ()), *_reported(choice)))
    if not weakest or not all(weakest.values()):
        return None
    return min(math.exp(sum(lowest) / len(lowest)) for lowest in weakest.values())


def _reported(choice: _Choice) -> list[float]:
    """The log-probabilities of the tokens that have one. No token is more than certain, so none makes up for others."""
    content = None if choice.logprobs is None else choice.logprobs.content
    return [min(0.0, token.logprob) for token in content or () if token.logprob is not None]


def without_logprobs(deltas: Iterable[Delta]) -> list[Delta]:
    """The same response without them, for a client that did not ask for them. One that cannot be written again, such as
    with a number that is out of range, is left as it is."""
    return [_without(delta) if _NAME in delta.data or _NAME in delta.original else delta for delta in deltas]


def _without(delta: Delta) -> Delta:
    return replace(delta, data=_cleared(delta.data), original=_emptied(delta.original) if delta.original else b"")


def _cleared(data: bytes) -> bytes:
    try:
        document: Any = exact_json.loads(data)
        for choice in document.get("choices") or ():
            if choice.get("logprobs") is not None:
                choice["logprobs"] = None
        return exact_json.dumps(document)
    except exact_json.JsonError:
        return data


def _emptied(original: bytes) -> bytes:
    """A response, or an event of one, as a target sends it that was not asked for them."""
    try:
        document: Any = exact_json.loads(original)
        _empty(document, _DEPTH)
        return exact_json.dumps(document)
    except exact_json.JsonError:
        return original


def _empty(value: Any, depth: int) -> None:
    if isinstance(value, list) and depth:
        for each in value:
            _empty(each, depth - 1)
    elif isinstance(value, dict) and depth:
        if isinstance(value.get("logprobs"), list):
            value["logprobs"] = []
        for name in _PLACES:
            _empty(value.get(name), depth - 1)
