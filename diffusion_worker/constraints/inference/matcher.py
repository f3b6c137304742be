"""Where an answer stands between two canvases, and what is written on one.

The promise threaded through: a text that can close within the tokens left now can still do so after every canvas. Knows
no logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.errors import AnswerDoesNotFit


@dataclass(frozen=True, slots=True, kw_only=True)
class Matcher:
    """The state of an answer before its next canvas. Invariant: distance of the state <= tokens_left."""

    automaton: TokenAutomaton
    state: int
    tokens_left: int  # the end token counted
    forbidden: frozenset[int] = frozenset()  # may not stand next, as long as anything else may; see `web.mending`

    @property
    def is_done(self) -> bool:
        """Whether the end token is written."""
        return self.state == self.automaton.done

    def room(self, canvas: int) -> int:
        """How many positions of a canvas the constraint fills; those behind exceed `max_tokens`."""
        return min(canvas, self.tokens_left)

    def shortest(self) -> tuple[int, ...]:
        """Fewest tokens that close the text, the end token left out."""
        return self.automaton.shortest(self.state)

    def after(self, tokens: Sequence[int]) -> "Matcher":
        """Behind a sealed canvas, of which all but the first `room` tokens are ignored. Raises ValueError when a token
        may not stand where it does, or when the text could no longer close in time."""
        room = self.room(len(tokens))
        state = self.automaton.walk(self.state, tokens[:room])
        if state < 0 or self.automaton.distance[state] > self.tokens_left - room:
            raise ValueError("the canvas leaves the constraint")
        forbidden = self.forbidden if room == 0 else frozenset()
        return replace(self, state=state, tokens_left=self.tokens_left - room, forbidden=forbidden)


def open_cursor(automaton: TokenAutomaton, max_tokens: int) -> Matcher:
    """Before the first canvas. Raises AnswerDoesNotFit when not even the shortest answer fits."""
    shortest = int(automaton.distance[automaton.start])
    if shortest > max_tokens:
        raise AnswerDoesNotFit(
            f"the shortest answer takes {shortest} tokens, max_tokens is {max_tokens}", param="max_tokens"
        )
    return Matcher(automaton=automaton, state=automaton.start, tokens_left=max_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasPath:
    """What a canvas says under the constraint."""

    tokens: NDArray[np.int32]  # [canvas] the tail token behind the end and beyond the room
    length: int  # tokens before the tail, an end token counted
    logprob: float  # of the written tokens together, as the net sees each by itself
    matcher: Matcher  # behind this canvas, should it be sealed

    @property
    def is_closed(self) -> bool:
        """Whether the answer ends on this canvas."""
        return self.matcher.is_done
