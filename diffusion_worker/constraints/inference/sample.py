"""A text drawn from all that the constraint allows on a canvas, as likely as the net thinks it, jointly and exactly.

Backwards the masses are summed (`marginals.remaining`), forwards one edge after the other is drawn. Randomness is an
argument: one number per position, so whoever keys it by seed, block, step and position gets the same text again.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.inference.equivalence_class_scores import RUN, Floats
from diffusion_worker.constraints.inference.matcher import CanvasPath, Matcher
from diffusion_worker.constraints.inference.token_set_scores import ClassMasses
from diffusion_worker.constraints.inference.viterbi import written
from diffusion_worker.constraints.tokens.token_automaton import TokenClasses
from diffusion_worker.constraints.tokens.transition_graph import wiring_of

Doubles = NDArray[np.float64]
_FEW: Final = 16
_BELOW_ONE: Final = 1.0 - 2.0**-53


def sample_path(matcher: Matcher, masses: ClassMasses, onward: Doubles, uniforms: Doubles) -> CanvasPath:
    """One draw. `onward` is what `remaining` gave; `uniforms` [canvas] are in [0, 1)."""
    automaton, wiring = matcher.automaton, wiring_of(matcher.automaton)
    members = _Members(automaton.classes, masses)
    state, tokens = matcher.state, []
    for position in range(len(onward) - 1):
        if state == automaton.done:
            break
        first, stop = automaton.first_edge[state], automaton.first_edge[state + 1]
        ways = masses.mass[position, wiring.label[first:stop]] + onward[position + 1, wiring.target_node[first:stop]]
        chosen, rest = _choose(ways, uniforms[position])
        edge = first + chosen
        tokens.append(members.choose(position, int(automaton.label[edge]), rest))
        state = int(automaton.target[edge])
    return written(matcher, masses.scores, tokens, state)


class _Members:
    """Draws tokens of classes: first the node, then its atom, then the token."""

    def __init__(self, classes: TokenClasses, masses: ClassMasses) -> None:
        self._classes = classes
        self._masses = masses
        self._large = classes.atoms - 1 if masses.large_runs.shape[1] else -1

    def choose(self, position: int, label: int, uniform: float) -> int:
        """A token of the class at the position."""
        mass, logits = self._masses.node_mass[:, position], self._masses.scores.logits[position]
        node, rest = _pick(self._classes.nodes_of(label), mass, uniform)
        while 2 * node < self._classes.nodes:
            second, rest = _halve(float(mass[2 * node + 1]) - float(mass[2 * node]), rest)
            node = 2 * node + second
        atom = int(self._classes.atom_at[node])
        if atom == self._large:
            return self._choose_of_large(position, rest)
        return _pick(self._classes.tokens_of(atom), logits, rest)[0]

    def _choose_of_large(self, position: int, uniform: float) -> int:
        """A token of the largest atom: first the run of neighbouring ids, then the token."""
        run, rest = _invert(self._masses.large_runs[position], uniform)
        ids = slice(run * RUN, (run + 1) * RUN)
        candidates = np.flatnonzero(self._classes.atom_of[ids] == self._large)
        return ids.start + _pick(candidates, self._masses.scores.logits[position, ids], rest)[0]


def _pick(candidates: NDArray[np.integer], weights: Floats, uniform: float) -> tuple[int, float]:
    """One of the candidates, by their log weights; and the rest of the number."""
    if len(candidates) == 1:
        return int(candidates[0]), uniform
    index, rest = _choose(weights[candidates], uniform)
    return int(candidates[index]), rest


def _choose(weights: NDArray[np.floating], uniform: float) -> tuple[int, float]:
    """An index drawn by log weights; and what the number has left to say, uniform again. Weights of nothing but -inf
    count as equal."""
    if len(weights) == 1:
        return 0, uniform
    if len(weights) <= _FEW:
        return _choose_of_few(weights.tolist(), uniform)
    top = weights.max()
    return _invert(np.exp(weights - top) if top > -np.inf else np.ones(len(weights)), uniform)


def _choose_of_few(weights: list[float], uniform: float) -> tuple[int, float]:
    """The same, one after the other: for a few numbers, calls of numpy take longer than what they do."""
    top = max(weights)
    shares = [math.exp(weight - top) for weight in weights] if top > -math.inf else [1.0] * len(weights)
    rest = uniform * sum(shares)
    for index, share in enumerate(shares):
        if rest < share:
            return index, min(rest / share, _BELOW_ONE)
        rest -= share
    return max(index for index, share in enumerate(shares) if share), _BELOW_ONE  # rounding: the last that weighs


def _halve(gap: float, uniform: float) -> tuple[int, float]:
    """0 or 1, where the second weighs exp(gap) times the first; and the rest of the number."""
    first = 1.0 / (1.0 + math.exp(gap)) if gap < 700.0 else 0.0
    if uniform < first:
        return 0, uniform / first
    return 1, min((uniform - first) / (1.0 - first), _BELOW_ONE)


def _invert(shares: NDArray[np.floating], uniform: float) -> tuple[int, float]:
    """The index at which the running sum of shares passes `uniform` of it, never one of share 0; and the rest."""
    ends = shares.cumsum(dtype=np.float64)
    target = uniform * ends[-1]
    index = int(ends.searchsorted(target, side="right"))
    if index == len(ends):  # rounding: the last one that weighs anything
        index = int(np.flatnonzero(shares)[-1])
    share = float(shares[index])
    rest = (target - (float(ends[index]) - share)) / share
    return index, min(max(rest, 0.0), _BELOW_ONE)
