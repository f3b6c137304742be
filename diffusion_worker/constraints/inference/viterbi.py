"""The Viterbi algorithm: the most likely text that the constraint allows on a canvas, with the text after its end
summed out.

Dynamic programming over positions and transitions, backwards, so that the value of a state is that of its best
completion. For diffusion models: DINGO (Suresh et al. 2025, arXiv 2505.23061).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.automata.native import NATIVE
from diffusion_worker.constraints.inference.matcher import CanvasPath, Matcher
from diffusion_worker.constraints.inference.token_set_scores import SetScores, TokenSetScores
from diffusion_worker.constraints.tokens.segmented_reduce import Segments
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton, TokenSets
from diffusion_worker.constraints.tokens.transition_graph import Transitions, transition_graph_of

Doubles = NDArray[np.float64]
Join = Callable[[Doubles, Doubles], object]  # (values of transitions in their layout, output: values of nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassPath:
    """A path as the equivalence class of each token before the padding, and the state after them."""

    classes: tuple[int, ...]
    states: tuple[int, ...]  # before each token
    rests: tuple[float, ...] = ()  # of a sample: uniform numbers that choose the tokens within their classes
    state: int


def best_path(matcher: Matcher, scores: TokenSetScores) -> CanvasPath:
    """The most likely path over the canvas from the matcher's state, among those that can still close in time.

    `scores` cover the whole canvas. A path always exists by the matcher's invariant. Ties go to the first edge and
    equivalence class.
    """
    path = best_classes(matcher, scores)
    tokens = [_most_likely(scores, matcher.automaton, *each) for each in enumerate(path.classes)]
    return write_path(matcher, scores, tokens, path.state)


def best_classes(matcher: Matcher, scores: SetScores) -> ClassPath:
    """The equivalence classes of the tokens of the most likely path."""
    automaton, graph = matcher.automaton, transition_graph_of(matcher.automaton)
    positions = matcher.remaining_positions(len(scores.best))
    values = backward_best(matcher, scores.best[:positions])
    classes, states, state = [], [], matcher.state
    for position in range(positions):
        if state == automaton.done:
            break
        first, stop = automaton.first_edge[state], automaton.first_edge[state + 1]
        candidates = (
            scores.best[position, graph.label[first:stop]] + values[position + 1, graph.target_node[first:stop]]
        )
        edge = first + candidates.argmax()
        states.append(state)
        classes.append(_most_likely_class(scores, automaton.token_sets, position, int(automaton.label[edge])))
        state = int(automaton.target[edge])
    return ClassPath(classes=tuple(classes), states=tuple(states), state=state)


def backward_best(matcher: Matcher, best: Doubles) -> Doubles:
    """[positions + 1, nodes] log probability of the best completion from each node, -inf where none closes in time. Row
    p + 1 holds the nodes reached by the token of position p; epsilon states among them have yet to read it."""
    return backward_pass(matcher, best, lambda segments: partial(segments.reduce, np.maximum), sums=False)


def backward_pass(matcher: Matcher, scores: Doubles, joining: Callable[[Segments], Join], *, sums: bool) -> Doubles:
    """The backward recursion over `scores` [positions, sets + 1]: the value of a transition is the score of its set
    plus the value of its target; the values of a node's transitions are joined by their maximum or, with `sums`, as
    logarithms of summands. `joining` does that without the compiled module, transitions of each node into `out`."""
    graph, positions = transition_graph_of(matcher.automaton), len(scores)
    values = np.empty((positions + 1, graph.nodes))
    values[positions, graph.node_of] = final_values(matcher, positions)
    if NATIVE is not None:
        NATIVE.backward(
            *(values, np.ascontiguousarray(scores, np.float64)),
            graph.compiled,
            *(graph.states, scores.shape[1], sums),
        )
        return values
    epsilon, states = slice(graph.states, None), slice(graph.states)
    into_epsilon = _backward_step(graph.from_epsilon, joining) if graph.from_epsilon else None
    into_states = _backward_step(graph.from_states, joining)
    for position in range(positions - 1, -1, -1):
        after, score = values[position + 1], scores[position]
        if into_epsilon is not None:
            into_epsilon(after, score, after[epsilon])
        into_states(after, score, values[position, states])
    return values


def _backward_step(
    transitions: Transitions, joining: Callable[[Segments], Join]
) -> Callable[[Doubles, Doubles, Doubles], object]:
    join = joining(transitions.segments)
    value, score_of = np.empty((2, len(transitions.label)))

    def run_step(after: Doubles, score: Doubles, out: Doubles) -> None:
        after.take(transitions.target, out=value, mode="clip")
        score.take(transitions.label, out=score_of, mode="clip")
        np.add(value, score_of, out=value)
        join(value, out)

    return run_step


def final_values(matcher: Matcher, positions: int) -> Doubles:
    """[states] 0 where a text can still close with the tokens left after `positions` positions, -inf elsewhere."""
    return np.where(matcher.automaton.distance <= matcher.tokens_left - positions, 0.0, -np.inf)


def write_path(matcher: Matcher, scores: TokenSetScores, tokens: Sequence[int], state: int) -> CanvasPath:
    """The path of `tokens` from the matcher's state to `state`, padded to the canvas."""
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


def _most_likely_class(scores: SetScores, token_sets: TokenSets, position: int, label: int) -> int:
    """The equivalence class of the most likely token of a set at a position."""
    best = scores.node_best[:, position]
    node = _argmax(best, token_sets.nodes_of(label))
    while 2 * node < token_sets.nodes:
        node = 2 * node + int(best[2 * node + 1] > best[2 * node])
    return int(token_sets.class_at[node])


def _most_likely(scores: TokenSetScores, automaton: TokenAutomaton, position: int, index: int) -> int:
    """The most likely token of an equivalence class at a position."""
    token_sets, top_token = automaton.token_sets, int(scores.top_token[position])
    if token_sets.class_of[top_token] == index:
        return top_token
    return _argmax(scores.logits[position], token_sets.tokens_of(index))


def _argmax(values: NDArray[np.float32], candidates: NDArray[np.int32]) -> int:
    return int(candidates[values[candidates].argmax()] if len(candidates) > 1 else candidates[0])
