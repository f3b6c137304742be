"""Inference over a canvas from scores of equivalence classes: the best path, the entropies of the marginals and a joint
sample, as classes. In C where that is built (`_native.c`), else by `viterbi`, `marginals` and `sample`, which define
what is computed.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.inference.class_reduction import ClassScores, Floats
from diffusion_worker.constraints.inference.marginals import backward_masses, marginal_entropy
from diffusion_worker.constraints.inference.matcher import Matcher
from diffusion_worker.constraints.inference.native import NATIVE
from diffusion_worker.constraints.inference.sample import sample_classes
from diffusion_worker.constraints.inference.scratch import IN_USE, KEPT, Scratch
from diffusion_worker.constraints.inference.token_set_scores import SetMasses, set_masses
from diffusion_worker.constraints.inference.viterbi import ClassPath, best_classes
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.constraints.tokens.transition_graph import transition_graph_of
from diffusion_worker.weak_cache import once_per_object

Doubles = NDArray[np.float64]
Ints = NDArray[np.int32]
LIVE_STATES: Final = "live states"
ALL_STATES: Final = "all states"
# A row over 256 positions takes up to 50 MiB; where all states are needed, 4 KiB a state.
_SCRATCH: Final = Scratch(in_use=IN_USE, kept=KEPT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inferred:
    """Texts as the equivalence classes of their tokens, each without its padding."""

    best: Ints  # of the most likely text
    states: Ints  # before each of its tokens
    drawn: Ints  # of the sample
    rests: Doubles  # for each of `drawn`, a uniform number that chooses the token within the class
    entropy: Doubles  # [remaining positions] of the marginals, in nats


def infer(matcher: Matcher, scores: ClassScores, uniforms: Doubles) -> Inferred:
    """Infer from the scores of a canvas, and as many `uniforms` in [0, 1)."""
    if NATIVE is not None:
        for way in (LIVE_STATES, ALL_STATES):
            if (found := infer_natively(way, matcher, scores, uniforms)) is not None:
                return found
    return infer_exactly(matcher, scores, uniforms)


def infer_natively(way: str, matcher: Matcher, scores: ClassScores, uniforms: Doubles) -> Inferred | None:
    """The same in C. From LIVE_STATES alone: None where these are too many or leave out too much. From ALL_STATES: None
    where probabilities leave the range of a double. Requires NATIVE."""
    assert NATIVE is not None
    run, size = (NATIVE.follow, NATIVE.live_size) if way == LIVE_STATES else (NATIVE.infer, NATIVE.scratch_size)
    positions = matcher.remaining_positions(len(uniforms))
    arrays = (scores.peak, scores.mass, scores.entropy, scores.sampled)
    of_row = [None if each is None else each[:positions] for each in arrays]
    best, states, drawn = np.empty((3, positions), np.int32)
    rests, entropy = np.empty((2, positions))
    program = _program_of(matcher.automaton)
    place, out = (program, matcher.state, matcher.tokens_left), (best, states, drawn, rests, entropy)
    with _SCRATCH.lend(size(program, positions)) as scratch:
        lengths = run(*place, *of_row, uniforms[:positions], *out, scratch)
    if lengths is None:
        return None
    of_best, of_drawn = lengths
    if of_drawn < 0:
        exact = _sample_exactly(matcher, scores, uniforms)
        drawn, rests = np.array(exact.classes, np.int32), np.array(exact.rests)
    else:
        drawn, rests = drawn[:of_drawn], rests[:of_drawn]
    return Inferred(best=best[:of_best], states=states[:of_best], drawn=drawn, rests=rests, entropy=entropy)


def infer_exactly(matcher: Matcher, scores: ClassScores, uniforms: Doubles) -> Inferred:
    """The same in log space, for probabilities of any size."""
    masses, backward = _weigh(matcher, scores, scores.mass)
    best, entropies = best_classes(matcher, masses.scores), marginal_entropy(matcher, masses, backward)
    if scores.sampled is None:
        drawn = sample_classes(matcher, masses, backward, uniforms)
    else:
        drawn = _sample_exactly(matcher, scores, uniforms)
    return Inferred(
        best=np.array(best.classes, np.int32),
        states=np.array(best.states, np.int32),
        drawn=np.array(drawn.classes, np.int32),
        rests=np.array(drawn.rests),
        entropy=entropies,
    )


def _sample_exactly(matcher: Matcher, scores: ClassScores, uniforms: Doubles) -> ClassPath:
    mass = scores.mass if scores.sampled is None else scores.sampled
    return sample_classes(matcher, *_weigh(matcher, scores, mass), uniforms)


def _weigh(matcher: Matcher, scores: ClassScores, mass: Floats) -> tuple[SetMasses, Doubles]:
    masses = set_masses(matcher.automaton.token_sets, peak=scores.peak, mass=mass, entropy=scores.entropy)
    return masses, backward_masses(matcher, masses)


@once_per_object
def _program_of(automaton: TokenAutomaton) -> Any:
    """The arrays of an automaton as `_native.c` reads them, checked on the first call."""
    assert NATIVE is not None
    graph, token_sets = transition_graph_of(automaton), automaton.token_sets
    arrays = (
        *(token_sets.leaf_of, token_sets.class_at, token_sets.set_start, token_sets.set_node),
        *(automaton.first_edge, automaton.label, automaton.target, automaton.distance),
        *(graph.node_of, graph.target_node, *graph.compiled[:3], *_kinds(automaton)),
    )
    return NATIVE.program(*(np.ascontiguousarray(each, np.int32) for each in arrays))


def _kinds(automaton: TokenAutomaton) -> tuple[Ints, Ints]:
    """[states] the kind of each state, where states of one kind read the same token sets; and a state of each kind."""
    draws = np.random.default_rng(0).integers(0, 2**64, automaton.token_sets.sets + 1, dtype=np.uint64)
    sums = np.add.reduceat(draws[automaton.label], automaton.first_edge[:-1])  # equal sums mean equal sets
    _, example, kind = np.unique(sums, return_index=True, return_inverse=True)
    return kind.astype(np.int32), example.astype(np.int32)
