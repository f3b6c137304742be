"""The likeliest text that the constraint allows on a canvas, with what stands behind its end summed out.

Dynamic programming over positions and edges, backwards, so that a state's value is that of its best completion; the
idea for diffusion is DINGO's (Suresh et al. 2025, arXiv 2505.23061). Knows token set scores, no logits beyond them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.inference.matcher import CanvasPath, Matcher
from diffusion_worker.constraints.inference.token_set_scores import TokenSetScores
from diffusion_worker.constraints.tokens.segmented_reduce import Segments
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.constraints.tokens.transition_graph import Transitions, transition_graph_of

Doubles = NDArray[np.float64]
Join = Callable[[Doubles, Doubles], object]  # values of transitions, in their layout; values of nodes, to be written


def best_path(matcher: Matcher, scores: TokenSetScores) -> CanvasPath:
    """The path of highest probability from the matcher over the canvas, among those that can still close in time.

    `scores` are of a whole canvas. There is always one: the matcher promises it. Ties: the first edge and equivalence
    class.
    """
    automaton, graph = matcher.automaton, transition_graph_of(matcher.automaton)
    positions = matcher.remaining_positions(len(scores.best))
    values = backward_best(matcher, scores.best[:positions])
    labels, state = [], matcher.state
    for position in range(positions):
        if state == automaton.done:
            break
        first, stop = automaton.first_edge[state], automaton.first_edge[state + 1]
        backward = scores.best[position, graph.label[first:stop]] + values[position + 1, graph.target_node[first:stop]]
        edge = first + backward.argmax()
        labels.append(int(automaton.label[edge]))
        state = int(automaton.target[edge])
    tokens = [_likeliest(scores, automaton, position, label) for position, label in enumerate(labels)]
    return write_path(matcher, scores, tokens, state)


def backward_best(matcher: Matcher, best: Doubles) -> Doubles:
    """[room + 1, nodes] log probability of the best path on from each node, -inf where none closes in time. `[p + 1]`
    has the nodes to which a step at position p may lead; an epsilon state among them has yet to read the token of p."""
    return backward_pass(matcher, best, lambda segments: partial(segments.reduce, np.maximum))


def backward_pass(matcher: Matcher, scores: Doubles, joining: Callable[[Segments], Join]) -> Doubles:
    """Backwards over the positions of `scores` [room, token sets + 1]: every path is worth its token set and what goes
    on from its target; `joining` makes one value of those of a node, in index of `out`."""
    graph, positions = transition_graph_of(matcher.automaton), len(scores)
    values = np.empty((positions + 1, graph.nodes))
    values[positions, graph.node_of] = final_values(matcher, positions)
    hubs, states = slice(graph.states, None), slice(graph.states)
    into_hubs = _backward_step(graph.from_epsilon, joining) if graph.from_epsilon else None
    into_states = _backward_step(graph.from_states, joining)
    for position in range(positions - 1, -1, -1):
        after, score = values[position + 1], scores[position]
        if into_hubs is not None:
            into_hubs(after, score, after[hubs])
        into_states(after, score, values[position, states])
    return values


def _backward_step(
    log_weights: Transitions, joining: Callable[[Segments], Join]
) -> Callable[[Doubles, Doubles, Doubles], object]:
    join = joining(log_weights.segments)
    backward, step = np.empty((2, len(log_weights.label)))

    def sweep(after: Doubles, score: Doubles, out: Doubles) -> None:
        after.take(log_weights.target, out=backward, mode="clip")
        score.take(log_weights.label, out=step, mode="clip")
        np.add(backward, step, out=backward)
        join(backward, out)

    return sweep


def final_values(matcher: Matcher, positions: int) -> Doubles:
    """[states] 0 where a text can still close in the tokens left behind `positions` positions, -inf elsewhere."""
    return np.where(matcher.automaton.distance <= matcher.tokens_left - positions, 0.0, -np.inf)


def write_path(matcher: Matcher, scores: TokenSetScores, tokens: Sequence[int], state: int) -> CanvasPath:
    """The path that writes `tokens` from the matcher and stands at `state` behind the canvas."""
    canvas = len(scores.best)
    filled = np.full(canvas, matcher.automaton.padding_id, np.int32)
    filled[: len(tokens)] = tokens
    positions = np.arange(len(tokens))
    logprobs = scores.logits[positions, filled[: len(tokens)]] - scores.normaliser[: len(tokens)]
    return CanvasPath(
        tokens=filled,
        length=len(tokens),
        logprob=float(logprobs.sum(dtype=np.float64)),
        matcher=replace(matcher, state=state, tokens_left=matcher.tokens_left - matcher.remaining_positions(canvas)),
    )


def _likeliest(scores: TokenSetScores, automaton: TokenAutomaton, position: int, label: int) -> int:
    """The likeliest token of a token set at a position."""
    token_sets = automaton.token_sets
    best = scores.node_best[:, position]
    node = _argmax(best, token_sets.nodes_of(label))
    while 2 * node < token_sets.nodes:
        node = 2 * node + int(best[2 * node + 1] > best[2 * node])
    top_token = int(scores.top_token[position])
    if token_sets.leaf_of[token_sets.class_of[top_token]] == node:
        return top_token
    return _argmax(scores.logits[position], token_sets.tokens_of(int(token_sets.class_at[node])))


def _argmax(values: NDArray[np.float32], candidates: NDArray[np.int32]) -> int:
    return int(candidates[values[candidates].argmax()] if len(candidates) > 1 else candidates[0])
