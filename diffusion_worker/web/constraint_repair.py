"""What is tried after an answer that breaks what its automaton cannot see: the offending span anew, the rest kept.

Of the span one token is blamed, at random but by the request's seed, and forbidden where it stood. What is before it
stays as it is and becomes context; what is behind it is offered to the next attempt as a text to edit. So no attempt
repeats a former one in either reading, also where the net would say the same for ever. Knows no engine and no sockets.
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
_OF_JSON: Final = ("json_schema", "json_object")  # what is found wrong with these has a place in the text


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidResponse:
    """A whole answer that was judged and found bad."""

    ids: Ids
    text: str
    violation: str
    kind: Kind  # of the constraint


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """The next attempt: what it keeps, and what to ask for behind that."""

    kept: Ids
    generation: GenerationRequest


@dataclass(slots=True, kw_only=True)
class ResponseRepairer:
    """All attempts at one ask."""

    generation: GenerationRequest  # the first one
    tokenizer: Tokenizer
    blamed: dict[Ids, set[int]] = field(default_factory=dict)  # beginning -> tokens behind it that were found bad

    def mend(self, broken: InvalidResponse, attempt: int) -> Repair | None:
        """None where nothing else could stand in the span."""
        assert self.generation.matcher is not None
        ids, places = broken.ids, list(_places(broken, self.tokenizer))
        is_forced = forced_tokens(self.generation.matcher.automaton, self.generation.matcher.state, np.asarray(ids))
        free = [place for place in places if not is_forced[place]]
        random.Random(f"{self.generation.seed}/{attempt}").shuffle(free)  # noqa: S311 - no secret
        for place in sorted(free, key=lambda place: not _says(self.tokenizer.token_bytes(ids[place]))):
            if (mend := self._at(ids, place, attempt)) is not None:
                return mend
        return None

    def _at(self, ids: Ids, place: int, attempt: int) -> Repair | None:
        assert self.generation.matcher is not None
        kept, rest = ids[:place], ids[place:]
        blamed = self.blamed.setdefault(kept, set())
        blamed.add(rest[0])
        matcher = self.generation.matcher.after(kept)
        others = set(np.flatnonzero(allowed_tokens(matcher)).tolist()) - blamed
        if not others:
            return None
        # White space would change the text and not what it says, so it is forbidden as well where anything else may be.
        blank = {token for token in others if self.tokenizer.token_bytes(token).isspace()}
        forbidden = blamed | blank if others - blank else blamed
        generation = replace(
            self.generation,
            prompt_ids=(*self.generation.prompt_ids, *kept),
            max_tokens=self.generation.max_tokens - len(kept),
            seed=self.generation.seed ^ attempt,
            start_ids=rest,
            anchor=DEFAULT_ANCHOR,
            matcher=replace(matcher, forbidden=frozenset(forbidden)),
        )
        return Repair(kept=kept, generation=generation)


def _places(broken: InvalidResponse, tokenizer: Tokenizer) -> Iterable[int]:
    """The tokens that write the offending span; all of them where nobody can tell."""
    span = span_of(broken.text, broken.violation) if broken.kind in _OF_JSON else None
    spelled = [tokenizer.token_bytes(token) for token in broken.ids]
    before = sum(map(len, spelled)) - len(broken.text.encode())  # a header is no text
    if span is None or not b"".join(spelled).endswith(broken.text.encode()):
        return range(len(broken.ids))
    first, last = (before + len(broken.text[:place].encode()) for place in span)
    return _within(spelled, first, last)


def _within(spelled: Sequence[bytes], first: int, last: int) -> Iterator[int]:
    at = 0
    for place, part in enumerate(spelled):
        if at < last and at + len(part) > first:
            yield place
        at += len(part)


def _says(spelling: bytes) -> bool:
    return any(byte >= 0x80 or chr(byte).isalnum() for byte in spelling)
