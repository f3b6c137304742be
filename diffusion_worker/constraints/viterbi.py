"""The likeliest text that the constraint allows on a canvas, with what stands behind its end summed out.

Dynamic programming over positions and edges, backwards, so that a state's value is that of its best completion; the
idea for diffusion is DINGO's (Suresh et al. 2025, arXiv 2505.23061). Knows class scores, no logits beyond them.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.class_scores import ClassScores
from diffusion_worker.constraints.cursor import CanvasPath, Cursor
from diffusion_worker.constraints.runs import Runs
from diffusion_worker.constraints.token_automaton import TokenAutomaton

Doubles = NDArray[np.float64]


def best_path(cursor: Cursor, scores: ClassScores) -> CanvasPath:
    """The path of highest probability from the cursor over the canvas, among those that can still close in time.

    `scores` are of a whole canvas. There is always one: the cursor promises it. Ties: the first edge and atom.
    """
    automaton = cursor.automaton
    room = cursor.room(len(scores.best))
    values = completions(cursor, scores.best[:room])
    labels, state = [], cursor.state
    for position in range(room):
        if state == automaton.done:
            break
        edges = slice(automaton.first_edge[state], automaton.first_edge[state + 1])
        onward = scores.best[position, automaton.label[edges]] + values[position + 1, automaton.target[edges]]
        edge = edges.start + int(onward.argmax())
        labels.append(int(automaton.label[edge]))
        state = int(automaton.target[edge])
    tokens = [_likeliest(scores, automaton, position, label) for position, label in enumerate(labels)]
    return written(cursor, scores, tokens, state)


def completions(cursor: Cursor, best: Doubles) -> Doubles:
    """[room + 1, states] log probability of the best way on from each state, -inf where none closes in time."""
    automaton = cursor.automaton
    runs = Runs(np.diff(automaton.first_edge))
    label, target = automaton.label[runs.layout].astype(np.intp), automaton.target[runs.layout].astype(np.intp)
    room = len(best)
    values = np.empty((room + 1, automaton.states))
    values[room] = closing(cursor, room)
    onward, step = np.empty((2, automaton.edges))
    for position in range(room - 1, -1, -1):
        values[position + 1].take(target, out=onward, mode="clip")
        best[position].take(label, out=step, mode="clip")
        onward += step
        runs.reduce(np.maximum, onward, values[position])
    return values


def closing(cursor: Cursor, room: int) -> Doubles:
    """[states] 0 where a text can still close in the tokens left behind `room` positions, -inf elsewhere."""
    return np.where(cursor.automaton.distance <= cursor.tokens_left - room, 0.0, -np.inf)


def written(cursor: Cursor, scores: ClassScores, tokens: Sequence[int], state: int) -> CanvasPath:
    """The path that writes `tokens` from the cursor and stands at `state` behind the canvas."""
    canvas = len(scores.best)
    filled = np.full(canvas, cursor.automaton.tail_id, np.int32)
    filled[: len(tokens)] = tokens
    positions = np.arange(len(tokens))
    logprobs = scores.logits[positions, filled[: len(tokens)]] - scores.normaliser[: len(tokens)]
    return CanvasPath(
        tokens=filled,
        length=len(tokens),
        logprob=float(logprobs.sum(dtype=np.float64)),
        cursor=replace(cursor, state=state, tokens_left=cursor.tokens_left - cursor.room(canvas)),
    )


def _likeliest(scores: ClassScores, automaton: TokenAutomaton, position: int, label: int) -> int:
    """The likeliest token of a class at a position."""
    classes = automaton.classes
    best = scores.node_best[position]
    node = _argmax(best, classes.nodes_of(label))
    while 2 * node < classes.nodes:
        node = 2 * node + int(best[2 * node + 1] > best[2 * node])
    surest = int(scores.surest[position])
    if classes.leaf_of[classes.atom_of[surest]] == node:
        return surest
    return _argmax(scores.logits[position], classes.tokens_of(int(classes.atom_at[node])))


def _argmax(values: NDArray[np.float32], candidates: NDArray[np.int32]) -> int:
    return int(candidates[values[candidates].argmax()] if len(candidates) > 1 else candidates[0])
