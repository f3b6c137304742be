"""Next attempt after an answer that fails validation: regenerate the offending span and keep the remainder.

Some constraints cannot be expressed in the automaton and are validated on the complete answer. When that fails, one
token of the offending span is chosen at random, seeded by the request, and forbidden at its position. The tokens before
it are kept as context; the tokens from there on become the text that the next attempt edits. Every attempt therefore
differs from all earlier ones, even with a deterministic model.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from diffusion_worker.constraints.error_localisation import span_of
from diffusion_worker.constraints.inference.matcher import allowed_tokens, forced_tokens
from diffusion_worker.constraints.spec import Kind
from diffusion_worker.text.tokenizer import Tokenizer
from diffusion_worker.types.requests import DEFAULT_ANCHOR, GenerationRequest

Ids = tuple[int, ...]
_JSON_KINDS: Final = ("json_schema", "json_object")  # constraints whose violations have a position in the text


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidResponse:
    """A complete answer that failed validation."""

    ids: Ids
    text: str
    violation: str
    kind: Kind  # of the constraint


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """The next attempt: the ids to keep, and the generation request for the remainder."""

    kept_ids: Ids
    generation: GenerationRequest


@dataclass(slots=True, kw_only=True)
class ResponseRepairer:
    """All attempts at one request."""

    generation: GenerationRequest  # of the first attempt
    tokenizer: Tokenizer
    rejected: dict[Ids, set[int]] = field(default_factory=dict)  # prefix -> next tokens that are forbidden after it

    def repair(self, invalid: InvalidResponse, attempt: int) -> Repair | None:
        """The next attempt, or None if no other token is allowed anywhere in the span."""
        assert self.generation.matcher is not None
        ids, positions = invalid.ids, list(_offending_positions(invalid, self.tokenizer))
        is_forced = forced_tokens(self.generation.matcher.automaton, self.generation.matcher.state, np.asarray(ids))
        free = [position for position in positions if not is_forced[position]]
        random.Random(f"{self.generation.seed}/{attempt}").shuffle(free)  # noqa: S311 - no secret
        for position in sorted(free, key=lambda position: not _has_content(self.tokenizer.token_bytes(ids[position]))):
            if (repair := self._attempt_from(ids, position, attempt)) is not None:
                return repair
        return None

    def _attempt_from(self, ids: Ids, position: int, attempt: int) -> Repair | None:
        assert self.generation.matcher is not None
        kept, remainder = ids[:position], ids[position:]
        rejected = self.rejected.setdefault(kept, set())
        rejected.add(remainder[0])
        matcher = self.generation.matcher.after(kept)
        allowed = set(np.flatnonzero(allowed_tokens(matcher)).tolist()) - rejected
        if not allowed:
            return None
        # Other white space would not change the value, so it is forbidden where any other token is allowed.
        blank = {token for token in allowed if self.tokenizer.token_bytes(token).isspace()}
        forbidden = rejected | blank if allowed - blank else rejected
        generation = replace(
            self.generation,
            prompt_ids=(*self.generation.prompt_ids, *kept),
            max_tokens=self.generation.max_tokens - len(kept),
            kept=len(kept),
            seed=self.generation.seed ^ attempt,
            start_ids=remainder,
            anchor=DEFAULT_ANCHOR,
            matcher=replace(matcher, forbidden=frozenset(forbidden)),
        )
        return Repair(kept_ids=kept, generation=generation)


def _offending_positions(invalid: InvalidResponse, tokenizer: Tokenizer) -> Iterable[int]:
    """Positions of the tokens of the offending span; all positions if the span is unknown."""
    span = span_of(invalid.text, invalid.violation) if invalid.kind in _JSON_KINDS else None
    token_texts = [tokenizer.token_bytes(token) for token in invalid.ids]
    before = sum(map(len, token_texts)) - len(invalid.text.encode())  # the token prefix is not part of the text
    if span is None or not b"".join(token_texts).endswith(invalid.text.encode()):
        return range(len(invalid.ids))
    first, last = (before + len(invalid.text[:position].encode()) for position in span)
    return _within(token_texts, first, last)


def _within(token_texts: Sequence[bytes], first: int, last: int) -> Iterator[int]:
    at = 0
    for position, text in enumerate(token_texts):
        if at < last and at + len(text) > first:
            yield position
        at += len(text)


def _has_content(text: bytes) -> bool:
    return any(byte >= 0x80 or chr(byte).isalnum() for byte in text)
