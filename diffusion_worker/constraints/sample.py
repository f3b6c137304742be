"""A text drawn from all that the constraint allows on a canvas, as likely as the net thinks it, jointly and exactly.

Backwards the masses are summed (`marginals.remaining`), forwards one edge after the other is drawn. Randomness is an
argument: one number per position, so whoever keys it by seed, block, step and position gets the same text again.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.atom_scores import Floats
from diffusion_worker.constraints.class_scores import ClassMasses
from diffusion_worker.constraints.cursor import CanvasPath, Cursor
from diffusion_worker.constraints.token_automaton import Ints, TokenClasses
from diffusion_worker.constraints.viterbi import written
from diffusion_worker.constraints.wiring import wiring_of

Doubles = NDArray[np.float64]
_LARGE: Final = 4096  # tokens; a larger atom is read in place, in runs of _RUN
_RUN: Final = 256
_FEW: Final = 16
_BELOW_ONE: Final = 1.0 - 2.0**-53


def sample_path(cursor: Cursor, masses: ClassMasses, onward: Doubles, uniforms: Doubles) -> CanvasPath:
    """One draw. `onward` is what `remaining` gave; `uniforms` [canvas] are in [0, 1)."""
    automaton, wiring = cursor.automaton, wiring_of(cursor.automaton)
    members = _Members(automaton.classes, masses)
    state, tokens = cursor.state, []
    for position in range(len(onward) - 1):
        if state == automaton.done:
            break
        first, stop = automaton.first_edge[state], automaton.first_edge[state + 1]
        ways = masses.mass[position, wiring.label[first:stop]] + onward[position + 1, wiring.target_node[first:stop]]
        chosen, rest = _choose(ways, uniforms[position])
        edge = first + chosen
        tokens.append(members.choose(position, int(automaton.label[edge]), rest))
        state = int(automaton.target[edge])
    return written(cursor, masses.scores, tokens, state)


class _Members:
    """Draws tokens of classes: first the node, then its atom, then the token."""

    def __init__(self, classes: TokenClasses, masses: ClassMasses) -> None:
        self._classes = classes
        self._masses = masses
        self._only: dict[int, Floats] = {}  # large atom -> [vocab] 0 for its tokens, -inf for others

    def choose(self, position: int, label: int, uniform: float) -> int:
        """A token of the class at the position."""
        mass, logits = self._masses.node_mass[:, position], self._masses.scores.logits[position]
        node, rest = _pick(self._classes.nodes_of(label), mass, uniform)
        while 2 * node < self._classes.nodes:
            second, rest = _halve(float(mass[2 * node + 1]) - float(mass[2 * node]), rest)
            node = 2 * node + second
        atom = int(self._classes.atom_at[node])
        tokens = self._classes.tokens_of(atom)
        return self._choose_in_place(logits, atom, rest) if len(tokens) > _LARGE else _pick(tokens, logits, rest)[0]

    def _choose_in_place(self, logits: Floats, atom: int, uniform: float) -> int:
        """A token of a large atom: first the run of neighbouring ids, then the token. A running sum over all of them
        would cost more than their exponentials."""
        if atom not in self._only:
            self._only[atom] = np.where(self._classes.atom_of == atom, np.float32(0.0), np.float32(-np.inf))
        values = logits + self._only[atom]
        values -= values.max()
        shares = np.exp(values, out=values)
        whole = len(shares) // _RUN * _RUN
        sums = shares[:whole].reshape(-1, _RUN) @ np.ones(_RUN, np.float32)  # the quickest sum
        run, rest = _invert(np.append(sums, shares[whole:].sum()), uniform)
        first = run * _RUN
        return first + _invert(shares[first : first + _RUN], rest)[0]


def _pick(candidates: Ints, weights: Floats, uniform: float) -> tuple[int, float]:
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
