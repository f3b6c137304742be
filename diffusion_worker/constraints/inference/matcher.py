"""The matcher: the state of a constrained answer between two canvases, and the tokens that it allows or forces next.

Invariant: a text that can close within the remaining tokens can still do so after every canvas.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton, TokenSets
from diffusion_worker.errors import AnswerDoesNotFit
from diffusion_worker.weak_cache import once_per_object

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matcher:
    """The state of an answer before its next canvas. Invariant: distance of the state <= tokens_left."""

    automaton: TokenAutomaton
    state: int
    tokens_left: int  # end token included
    forbidden: frozenset[int] = (
        frozenset()
    )  # excluded as the next token while any other is allowed; see `web.constraint_repair`

    @property
    def is_done(self) -> bool:
        """Whether the end token is written."""
        return self.state == self.automaton.done

    def remaining_positions(self, canvas: int) -> int:
        """The positions of a canvas that the constraint fills; later ones would exceed `max_tokens`."""
        return min(canvas, self.tokens_left)

    def shortest(self) -> tuple[int, ...]:
        """The shortest token sequence that completes the text, without the end token."""
        return self.automaton.shortest(self.state)

    def after(self, tokens: Sequence[int]) -> "Matcher":
        """After a sealed canvas, of which only the first `remaining_positions` tokens are read. Raises ValueError when
        a token is not allowed, or when the text could no longer close in time."""
        positions = self.remaining_positions(len(tokens))
        state = self.automaton.walk(self.state, tokens[:positions])
        if state < 0 or self.automaton.distance[state] > self.tokens_left - positions:
            raise ValueError("the canvas leaves the constraint")
        forbidden = self.forbidden if positions == 0 else frozenset()
        return replace(self, state=state, tokens_left=self.tokens_left - positions, forbidden=forbidden)


def open_matcher(automaton: TokenAutomaton, max_tokens: int) -> Matcher:
    """The matcher before the first canvas. Raises AnswerDoesNotFit when not even the shortest answer fits."""
    shortest = int(automaton.distance[automaton.start])
    if shortest > max_tokens:
        raise AnswerDoesNotFit(
            f"the shortest answer takes {shortest} tokens, max_tokens is {max_tokens}", param="max_tokens"
        )
    return Matcher(automaton=automaton, state=automaton.start, tokens_left=max_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasPath:
    """The text that a canvas holds under the constraint."""

    tokens: NDArray[np.int32]  # [canvas] padded after the end token
    length: int  # tokens before the padding, end token included
    logprob: float  # sum of the model's log probabilities of the tokens
    matcher: Matcher  # after this canvas, if it is sealed

    @property
    def is_closed(self) -> bool:
        """Whether the answer ends on this canvas."""
        return self.matcher.is_done


def allowed_tokens(matcher: Matcher) -> Flags:
    """[vocab] the next-token mask: tokens after which the text can still close in time. Never empty, by the matcher's
    invariant; forbidden tokens are allowed if there are no others."""
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
    """[tokens] where the constraint allowed a single token on the path of `tokens` from `state`. The model had no
    choice there, so these tokens do not count towards its confidence."""
    states = np.empty(len(tokens), np.intp)
    for position, token in enumerate(tokens.tolist()):
        states[position] = state
        state = automaton.after(state, token)
    return forcing_states(automaton)[states]


@once_per_object
def forcing_states(automaton: TokenAutomaton) -> Flags:
    """[states] which allow a single token; computed on the first call."""
    flags = np.zeros(automaton.states, np.bool_)
    for state in np.flatnonzero(np.diff(automaton.first_edge) == 1).tolist():
        flags[state] = _is_forced(automaton, state)
    return flags


def _is_forced(automaton: TokenAutomaton, state: int) -> bool:
    """Of a state with one edge."""
    if state == automaton.done:
        return False
    classes = classes_of(automaton.token_sets, int(automaton.label[automaton.first_edge[state]]))
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
