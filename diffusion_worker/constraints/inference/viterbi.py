"""The likeliest text that the constraint allows on a canvas, with what stands behind its end summed out.

Dynamic programming over positions and edges, backwards, so that a state's value is that of its best completion; the
idea for diffusion is DINGO's (Suresh et al. 2025, arXiv 2505.23061). Knows class scores, no logits beyond them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.inference.matcher import CanvasPath, Matcher
from diffusion_worker.constraints.inference.token_set_scores import ClassScores
from diffusion_worker.constraints.tokens.segmented_reduce import Runs
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.constraints.tokens.transition_graph import Ways, wiring_of

Doubles = NDArray[np.float64]
Join = Callable[[Doubles, Doubles], object]  # values of ways, in their layout; values of nodes, to be written


def best_path(matcher: Matcher, scores: ClassScores) -> CanvasPath:
    """The path of highest probability from the cursor over the canvas, among those that can still close in time.

    `scores` are of a whole canvas. There is always one: the cursor promises it. Ties: the first edge and atom.
    """
    automaton, wiring = matcher.automaton, wiring_of(matcher.automaton)
    room = matcher.room(len(scores.best))
    values = completions(matcher, scores.best[:room])
    labels, state = [], matcher.state
    for position in range(room):
        if state == automaton.done:
            break
        first, stop = automaton.first_edge[state], automaton.first_edge[state + 1]
        onward = scores.best[position, wiring.label[first:stop]] + values[position + 1, wiring.target_node[first:stop]]
        edge = first + onward.argmax()
        labels.append(int(automaton.label[edge]))
        state = int(automaton.target[edge])
    tokens = [_likeliest(scores, automaton, position, label) for position, label in enumerate(labels)]
    return written(matcher, scores, tokens, state)


def completions(matcher: Matcher, best: Doubles) -> Doubles:
    """[room + 1, nodes] log probability of the best way on from each node, -inf where none closes in time. `[p + 1]`
    has the nodes to which a step at position p may lead; a hub among them has yet to read the token of p."""
    return swept(matcher, best, lambda runs: partial(runs.reduce, np.maximum))


def swept(matcher: Matcher, scores: Doubles, joining: Callable[[Runs], Join]) -> Doubles:
    """Backwards over the positions of `scores` [room, classes + 1]: every way is worth its class and what goes on from
    its target; `joining` makes one value of those of a node, in place of `out`."""
    wiring, room = wiring_of(matcher.automaton), len(scores)
    values = np.empty((room + 1, wiring.nodes))
    values[room, wiring.node_of] = closing(matcher, room)
    hubs, states = slice(wiring.states, None), slice(wiring.states)
    into_hubs = _sweep(wiring.from_hubs, joining) if wiring.from_hubs else None
    into_states = _sweep(wiring.from_states, joining)
    for position in range(room - 1, -1, -1):
        after, score = values[position + 1], scores[position]
        if into_hubs is not None:
            into_hubs(after, score, after[hubs])
        into_states(after, score, values[position, states])
    return values


def _sweep(ways: Ways, joining: Callable[[Runs], Join]) -> Callable[[Doubles, Doubles, Doubles], object]:
    join = joining(ways.runs)
    onward, step = np.empty((2, len(ways.label)))

    def sweep(after: Doubles, score: Doubles, out: Doubles) -> None:
        after.take(ways.target, out=onward, mode="clip")
        score.take(ways.label, out=step, mode="clip")
        np.add(onward, step, out=onward)
        join(onward, out)

    return sweep


def closing(matcher: Matcher, room: int) -> Doubles:
    """[states] 0 where a text can still close in the tokens left behind `room` positions, -inf elsewhere."""
    return np.where(matcher.automaton.distance <= matcher.tokens_left - room, 0.0, -np.inf)


def written(matcher: Matcher, scores: ClassScores, tokens: Sequence[int], state: int) -> CanvasPath:
    """The path that writes `tokens` from the cursor and stands at `state` behind the canvas."""
    canvas = len(scores.best)
    filled = np.full(canvas, matcher.automaton.tail_id, np.int32)
    filled[: len(tokens)] = tokens
    positions = np.arange(len(tokens))
    logprobs = scores.logits[positions, filled[: len(tokens)]] - scores.normaliser[: len(tokens)]
    return CanvasPath(
        tokens=filled,
        length=len(tokens),
        logprob=float(logprobs.sum(dtype=np.float64)),
        matcher=replace(matcher, state=state, tokens_left=matcher.tokens_left - matcher.room(canvas)),
    )


def _likeliest(scores: ClassScores, automaton: TokenAutomaton, position: int, label: int) -> int:
    """The likeliest token of a class at a position."""
    classes = automaton.classes
    best = scores.node_best[:, position]
    node = _argmax(best, classes.nodes_of(label))
    while 2 * node < classes.nodes:
        node = 2 * node + int(best[2 * node + 1] > best[2 * node])
    surest = int(scores.surest[position])
    if classes.leaf_of[classes.atom_of[surest]] == node:
        return surest
    return _argmax(scores.logits[position], classes.tokens_of(int(classes.atom_at[node])))


def _argmax(values: NDArray[np.float32], candidates: NDArray[np.int32]) -> int:
    return int(candidates[values[candidates].argmax()] if len(candidates) > 1 else candidates[0])
