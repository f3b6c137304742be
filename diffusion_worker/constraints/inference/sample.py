"""Exact joint sampling: a text drawn from all that the constraint allows on a canvas, with the probability the model
gives it.

Forward filtering, backward sampling with the directions exchanged: masses are summed backwards
(`marginals.backward_masses`), then one edge after another is drawn forwards. Randomness is an argument, one number per
position, so that a caller that derives it from seed, block, step and position gets the same text again.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.inference.equivalence_class_scores import CHUNK, Floats
from diffusion_worker.constraints.inference.matcher import CanvasPath, Matcher, classes_of
from diffusion_worker.constraints.inference.token_set_scores import FLOOR, SetMasses, TokenSetMasses, TokenSetScores
from diffusion_worker.constraints.inference.viterbi import ClassPath, write_path
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton, TokenSets
from diffusion_worker.constraints.tokens.transition_graph import TransitionGraph, transition_graph_of

Doubles = NDArray[np.float64]
# nats below the most likely token, within which tokens are given to `Truncate`, until they suffice
_GAPS: Final = (8.0, 20.0, math.inf)
_ROUNDING: Final = 1.0  # nats, more than the error of a score in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class NotGiven:
    """What is known of tokens whose weights are not given: each is below `bound`, and all tokens, given or not, have
    the log mass `total`."""

    bound: float
    total: float


class Truncate(Protocol):
    """Chooses among tokens."""

    def __call__(
        self, log_weights: Doubles, /, *, not_given: NotGiven | None
    ) -> tuple[NDArray[np.integer], Doubles] | None:
        """From log weights of tokens, the indices of those that may be chosen and their weights; None if that depends
        on tokens that are not given."""
        ...


_FEW: Final = 16
_BELOW_ONE: Final = 1.0 - 2.0**-53


def sample_path(
    matcher: Matcher,
    masses: TokenSetMasses,
    backward: Doubles,
    uniforms: Doubles,
    truncate: Truncate | None = None,
) -> CanvasPath:
    """Draw one text. `backward` is the result of `backward_masses`; `uniforms` [canvas] are in [0, 1). `truncate`
    limits the tokens at each position, given the text before it."""
    if truncate is not None:
        return _truncated_path(matcher, masses, backward, uniforms, truncate)
    path = sample_classes(matcher, masses, backward, uniforms)
    members = _Members(matcher.automaton.token_sets, masses)
    tokens = [members.choose(at, *each) for at, each in enumerate(zip(path.classes, path.rests, strict=True))]
    return write_path(matcher, masses.scores, tokens, path.state)


def sample_classes(matcher: Matcher, masses: SetMasses, backward: Doubles, uniforms: Doubles) -> ClassPath:
    """The equivalence classes of the tokens that `sample_path` draws, and numbers that choose tokens within them."""
    automaton, graph = matcher.automaton, transition_graph_of(matcher.automaton)
    state = matcher.state
    classes, states, rests = list[int](), list[int](), list[float]()
    for position in range(len(backward) - 1):
        if state == automaton.done:
            break
        first, stop = automaton.first_edge[state], automaton.first_edge[state + 1]
        log_weights = (
            masses.mass[position, graph.label[first:stop]] + backward[position + 1, graph.target_node[first:stop]]
        )
        chosen, rest = _choose(log_weights, uniforms[position])
        edge = first + chosen
        label = int(automaton.label[edge])
        index, rest = _choose_class(automaton.token_sets, masses.node_mass[:, position], label, rest)
        states.append(state)
        classes.append(index)
        rests.append(rest)
        state = int(automaton.target[edge])
    return ClassPath(classes=tuple(classes), states=tuple(states), rests=tuple(rests), state=state)


def _choose_class(token_sets: TokenSets, mass: Floats, label: int, uniform: float) -> tuple[int, float]:
    """An equivalence class of a set, drawn by the log masses [nodes], and the remainder of the random number."""
    node, rest = _pick(token_sets.nodes_of(label), mass, uniform)
    while 2 * node < token_sets.nodes:
        second, rest = _halve(float(mass[2 * node + 1]) - float(mass[2 * node]), rest)
        node = 2 * node + second
    return int(token_sets.class_at[node]), rest


def _truncated_path(
    matcher: Matcher, masses: TokenSetMasses, backward: Doubles, uniforms: Doubles, truncate: Truncate
) -> CanvasPath:
    automaton, graph = matcher.automaton, transition_graph_of(matcher.automaton)
    state, tokens = matcher.state, list[int]()
    for position in range(len(backward) - 1):
        if state == automaton.done:
            break
        of_class = _completions(automaton, graph, state, backward[position + 1])
        total = _total(automaton, graph, state, (masses.mass[position], backward[position + 1]))
        token = _truncated(truncate, _Weights(automaton.token_sets, masses.scores, position, of_class), total)
        tokens.append(token(uniforms[position]))
        state = automaton.after(state, tokens[-1])
    return write_path(matcher, masses.scores, tokens, state)


def _completions(automaton: TokenAutomaton, graph: TransitionGraph, state: int, masses: Doubles) -> Doubles:
    """[classes] log mass of the completions after a token of the class; -inf where the state does not allow it."""
    of_class = np.full(automaton.token_sets.classes, -np.inf)
    for edge in range(automaton.first_edge[state], automaton.first_edge[state + 1]):
        of_class[classes_of(automaton.token_sets, int(automaton.label[edge]))] = masses[graph.target_node[edge]]
    return of_class


def _total(automaton: TokenAutomaton, graph: TransitionGraph, state: int, masses: tuple[Doubles, Doubles]) -> float:
    """Log mass of all tokens that the state allows, from those of token sets and completions; normalised as logits."""
    first, stop = automaton.first_edge[state], automaton.first_edge[state + 1]
    of_sets, completions = masses
    return float(np.logaddexp.reduce(of_sets[graph.label[first:stop]] + completions[graph.target_node[first:stop]]))


class _Weights:
    """Log weights of the next token at a position: its logit, and the mass of the completions after it."""

    def __init__(self, token_sets: TokenSets, scores: TokenSetScores, position: int, of_class: Doubles) -> None:
        self._class_of, self._of_class = token_sets.class_of, of_class
        self._logits, self.normaliser = scores.logits[position], float(scores.normaliser[position])
        self.count = len(self._logits)
        allowed = of_class > -np.inf
        peaks = np.maximum(scores.node_best[token_sets.leaf_of, position] + self.normaliser, FLOOR)
        self._best_of_class = np.where(allowed, peaks + np.where(allowed, of_class, 0.0), -np.inf)
        self.largest = float(self._best_of_class.max())

    def above(self, bound: float) -> tuple[NDArray[np.integer], Doubles] | None:
        """Tokens with at least this weight, in ascending order, and their weights; None if that may mean all. Each is
        compared with the logit that its class needs, so that weights are computed for these tokens only."""
        least = np.where(self._best_of_class >= bound, bound - self._of_class, np.inf)
        if least.min() <= FLOOR:
            return None
        return self._weighed(np.flatnonzero(self._logits >= least.astype(np.float32)[self._class_of]))

    def every(self) -> tuple[NDArray[np.integer], Doubles]:
        """All tokens of the vocabulary and their weights, -inf where the state does not allow them."""
        return self._weighed(np.arange(self.count))

    def _weighed(self, tokens: NDArray[np.integer]) -> tuple[NDArray[np.integer], Doubles]:
        return tokens, np.maximum(self._logits[tokens], FLOOR) + self._of_class[self._class_of[tokens]]


def _truncated(truncate: Truncate, weights: _Weights, total: float) -> Callable[[float], int]:
    """Draws one of the tokens that the truncation keeps, of which it looks at as few as possible."""
    total += weights.normaliser
    most = weights.largest + math.log(weights.count)
    is_exact = weights.largest - _ROUNDING <= total <= most + _ROUNDING  # not where the lower bound of scores counts
    for gap in _GAPS if is_exact else _GAPS[-1:]:
        bound = weights.largest - gap
        given = weights.above(bound - _ROUNDING) if gap < math.inf else None
        tokens, log_weights = given or weights.every()
        not_given = NotGiven(bound=bound, total=total) if given else None
        found = truncate(log_weights, not_given=not_given)
        if found is not None:
            break
    assert found is not None, "nothing is missing where all tokens are given"
    kept, shares = found
    return lambda uniform: int(tokens[kept[_invert(shares, uniform)[0]]])


class _Members:
    """Draws a token of an equivalence class."""

    def __init__(self, token_sets: TokenSets, masses: TokenSetMasses) -> None:
        self._token_sets = token_sets
        self._masses = masses
        self._large = token_sets.classes - 1 if masses.large_chunks.shape[1] else -1

    def choose(self, position: int, index: int, uniform: float) -> int:
        """A token of the class at the position."""
        if index == self._large:
            return self._choose_of_largest(position, uniform)
        return _pick(self._token_sets.tokens_of(index), self._masses.scores.logits[position], uniform)[0]

    def _choose_of_largest(self, position: int, uniform: float) -> int:
        """A token of the largest equivalence class: first a chunk of consecutive ids, then the token."""
        chunk, rest = _invert(self._masses.large_chunks[position], uniform)
        ids = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        candidates = np.flatnonzero(self._token_sets.class_of[ids] == self._large)
        return ids.start + _pick(candidates, self._masses.scores.logits[position, ids], rest)[0]


def _pick(candidates: NDArray[np.integer], weights: Floats, uniform: float) -> tuple[int, float]:
    """A candidate drawn by log weight, and the remainder of the random number."""
    if len(candidates) == 1:
        return int(candidates[0]), uniform
    index, rest = _choose(weights[candidates], uniform)
    return int(candidates[index]), rest


def _choose(weights: NDArray[np.floating], uniform: float) -> tuple[int, float]:
    """An index drawn by log weight, and the remainder of the random number, uniform again. Weights that are all -inf
    count as equal."""
    if len(weights) == 1:
        return 0, uniform
    if len(weights) <= _FEW:
        return _choose_of_few(weights.tolist(), uniform)
    top = weights.max()
    return _invert(np.exp(weights - top) if top > -np.inf else np.ones(len(weights)), uniform)


def _choose_of_few(weights: list[float], uniform: float) -> tuple[int, float]:
    """The same without numpy, whose call overhead dominates for a few numbers."""
    top = max(weights)
    shares = [math.exp(weight - top) for weight in weights] if top > -math.inf else [1.0] * len(weights)
    rest = uniform * sum(shares)
    for index, share in enumerate(shares):
        if rest < share:
            return index, min(rest / share, _BELOW_ONE)
        rest -= share
    return max(index for index, share in enumerate(shares) if share), _BELOW_ONE  # rounding: the last with a weight


def _halve(gap: float, uniform: float) -> tuple[int, float]:
    """0 or 1, where the second weighs exp(gap) times the first, and the remainder of the random number."""
    first = 1.0 / (1.0 + math.exp(gap)) if gap < 700.0 else 0.0
    if uniform < first:
        return 0, uniform / first
    return 1, min((uniform - first) / (1.0 - first), _BELOW_ONE)


def _invert(shares: NDArray[np.floating], uniform: float) -> tuple[int, float]:
    """Inverse transform sampling: the index at which the cumulative sum passes `uniform` of the total, never one of
    share 0, and the remainder."""
    ends = shares.cumsum(dtype=np.float64)
    target = uniform * ends[-1]
    index = int(ends.searchsorted(target, side="right"))
    if index == len(ends):  # rounding: the last with a weight
        index = int(np.flatnonzero(shares)[-1])
    share = float(shares[index])
    rest = (target - (float(ends[index]) - share)) / share
    return index, min(max(rest, 0.0), _BELOW_ONE)
