"""Where an answer stands between two canvases, and what is written on one.

The promise threaded through: a text that can close within the tokens left now can still do so after every canvas. Knows
no logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton, TokenSets
from diffusion_worker.errors import AnswerDoesNotFit

Flags = NDArray[np.bool_]


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

    def remaining_positions(self, canvas: int) -> int:
        """How many positions of a canvas the constraint fills; those behind exceed `max_tokens`."""
        return min(canvas, self.tokens_left)

    def shortest(self) -> tuple[int, ...]:
        """Fewest tokens that close the text, the end token left out."""
        return self.automaton.shortest(self.state)

    def after(self, tokens: Sequence[int]) -> "Matcher":
        """Behind a sealed canvas, of which all but the first `remaining_positions` tokens are ignored. Raises
        ValueError when a token may not stand where it does, or when the text could no longer close in time."""
        remaining_positions = self.remaining_positions(len(tokens))
        state = self.automaton.walk(self.state, tokens[:remaining_positions])
        if state < 0 or self.automaton.distance[state] > self.tokens_left - remaining_positions:
            raise ValueError("the canvas leaves the constraint")
        forbidden = self.forbidden if remaining_positions == 0 else frozenset()
        return replace(self, state=state, tokens_left=self.tokens_left - remaining_positions, forbidden=forbidden)


def open_matcher(automaton: TokenAutomaton, max_tokens: int) -> Matcher:
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

    tokens: NDArray[np.int32]  # [canvas] the padding token behind the end and beyond the room
    length: int  # tokens before the padding, an end token counted
    logprob: float  # of the written tokens together, as the model sees each by itself
    matcher: Matcher  # behind this canvas, should it be sealed

    @property
    def is_closed(self) -> bool:
        """Whether the answer ends on this canvas."""
        return self.matcher.is_done


def allowed_tokens(matcher: Matcher) -> Flags:
    """[vocab] the tokens that may stand next, of which the text can still close in time. Never none: the matcher
    promises it, and what it forbids is allowed where nothing else is."""
    automaton, left = matcher.automaton, matcher.tokens_left - 1
    token_sets = automaton.token_sets
    classes = np.zeros(token_sets.classes, np.bool_)
    for edge in range(automaton.first_edge[matcher.state], automaton.first_edge[matcher.state + 1]):
        if automaton.distance[automaton.target[edge]] <= left:
            classes[classes_of(token_sets, int(automaton.label[edge]))] = True
    tokens: Flags = classes[token_sets.class_of]
    others = tokens.copy()
    others[list(matcher.forbidden)] = False
    return others if others.any() else tokens


def forced_tokens(automaton: TokenAutomaton, state: int, tokens: NDArray[np.integer]) -> Flags:
    """[tokens] where on the path of `tokens` from `state` the constraint left a single token. The model had no say
    there, so it earns no confidence."""
    flags = np.zeros(len(tokens), np.bool_)
    for place, token in enumerate(tokens.tolist()):
        flags[place] = _has_one_way(automaton, state)
        state = automaton.after(state, token)
    return flags


def _has_one_way(automaton: TokenAutomaton, state: int) -> bool:
    first, stop = automaton.first_edge[state], automaton.first_edge[state + 1]
    if stop - first != 1 or state == automaton.done:
        return False
    classes = classes_of(automaton.token_sets, int(automaton.label[first]))
    return len(classes) == 1 and len(automaton.token_sets.tokens_of(int(classes[0]))) == 1


def classes_of(token_sets: TokenSets, label: int) -> NDArray[np.int32]:
    """The equivalence classes of a token set: the leaves below its nodes."""
    below = []
    for node in token_sets.nodes_of(label).tolist():
        first, count = node, 1
        while first < token_sets.nodes // 2:
            first, count = 2 * first, 2 * count
        below.append(token_sets.class_at[first : first + count])
    classes = np.concatenate(below)
    return classes[classes >= 0]
