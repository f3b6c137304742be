"""The transition graph is equivalent to the automaton, with fewer transitions."""

import gc
import weakref
from collections import Counter
from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.vocabularies import shipped
from diffusion_worker.constraints.compile import compile_schema
from diffusion_worker.constraints.inference.marginals import backward_masses, marginals
from diffusion_worker.constraints.inference.matcher import open_matcher
from diffusion_worker.constraints.inference.sample import sample_path
from diffusion_worker.constraints.inference.token_set_scores import weigh_token_sets
from diffusion_worker.constraints.inference.viterbi import backward_best, best_path
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.constraints.tokens.transition_graph import TransitionGraph, Transitions, transition_graph_of
from tests.worker.constraints.by_enumeration import Case, cases
from tests.worker.constraints.inference.test_viterbi import opened

# Any key may follow any other, so most states behind a value have the same edges.
KEYS = {"type": "object", "properties": {name: {"type": "string"} for name in ("ape", "bee", "cat", "dog", "eel")}}


@pytest.fixture(autouse=True, scope="module")
def epsilon_states_wherever_they_save_a_transition() -> Iterator[None]:
    """Small automata have none otherwise."""
    with patch("diffusion_worker.constraints.tokens.transition_graph._LEAST_SAVED", 1):
        yield


def keyed() -> TokenAutomaton:
    automaton = compile_tokens(compile_schema(KEYS).automaton, shipped().read())
    assert automaton is not None
    return automaton


def unrolled(transitions: Transitions | None, first: int) -> dict[int, list[tuple[int, int]]]:
    """Node -> what its transitions read and where they lead."""
    found: dict[int, list[tuple[int, int]]] = {}
    if transitions is not None:
        owner = np.zeros(len(transitions.label))
        transitions.segments.subtract(owner, -np.arange(transitions.segments.count, dtype=np.float64))
        for node, label, target in zip(owner.astype(int) + first, transitions.label, transitions.target, strict=True):
            found.setdefault(int(node), []).append((int(label), int(target)))
    return found


def edges_by_node(graph: TransitionGraph) -> dict[int, Counter[tuple[int, int]]]:
    """Node of a state -> its edges, those of its epsilon states among them."""
    epsilon_states = unrolled(graph.from_epsilon, graph.states)
    return {
        node: Counter(way for label, target in transitions for way in epsilon_states.get(target, [(label, target)]))
        for node, transitions in unrolled(graph.from_states, 0).items()
    }


def told(automaton: TokenAutomaton, graph: TransitionGraph) -> dict[int, Counter[tuple[int, int]]]:
    return {
        int(graph.node_of[state]): Counter(
            (int(automaton.label[edge]), int(graph.node_of[automaton.target[edge]]))
            for edge in range(automaton.first_edge[state], automaton.first_edge[state + 1])
        )
        for state in range(automaton.states)
    }


@given(cases(), st.integers(1, 6))
def test_the_graph_has_the_edges_of_the_automaton(case: Case, max_tokens: int) -> None:
    """Exactly once each."""
    automaton = opened(case, max_tokens).automaton
    assert edges_by_node(transition_graph_of(automaton)) == told(automaton, transition_graph_of(automaton))


def test_shared_edges_are_stored_once() -> None:
    """Every state still has its edges."""
    automaton = keyed()
    graph = transition_graph_of(automaton)
    assert graph.from_epsilon is not None
    transitions = len(graph.from_states.label) + len(graph.from_epsilon.label)
    assert transitions < 0.9 * automaton.edges
    assert edges_by_node(graph) == told(automaton, graph)


def test_few_shared_edges_get_no_epsilon_state() -> None:
    """The numpy calls for them would cost more than the edges."""
    with patch("diffusion_worker.constraints.tokens.transition_graph._LEAST_SAVED", 2000):
        automaton = keyed()
        graph = transition_graph_of(automaton)
    assert graph.from_epsilon is None
    assert len(graph.from_states.label) == automaton.edges
    assert edges_by_node(graph) == told(automaton, graph)


def test_the_graph_is_built_once_and_freed_with_its_automaton() -> None:
    automaton = keyed()
    assert transition_graph_of(automaton) is transition_graph_of(automaton)
    graph = weakref.ref(transition_graph_of(automaton).from_states.segments)
    del automaton
    gc.collect()
    assert graph() is None


def test_values_equal_those_over_plain_edges() -> None:
    """The best completions, by the automaton's own edges."""
    automaton = keyed()
    matcher, graph = open_matcher(automaton, 30), transition_graph_of(automaton)
    best = -np.random.default_rng(0).random((20, automaton.token_sets.sets + 1))
    best[:, -1] = 0.0  # any token, unscored
    found = backward_best(matcher, best)[:, graph.node_of]
    for position in range(20):
        edges = best[position, automaton.label] + found[position + 1, automaton.target]
        expected = np.full(automaton.states, -np.inf)
        np.maximum.at(expected, automaton.source, edges)
        assert (found[position] == expected).all()


def test_epsilon_states_change_no_result() -> None:
    """The same automaton wired with and without."""
    wired, plain = keyed(), keyed()
    with patch("diffusion_worker.constraints.tokens.transition_graph._LEAST_SAVED", 2000):
        assert transition_graph_of(plain).from_epsilon is None
    logits = np.random.default_rng(1).standard_normal((24, len(plain.token_sets.order)), dtype=np.float32) * 3
    seen = []
    for automaton in (wired, plain):
        matcher, masses = open_matcher(automaton, 40), weigh_token_sets(automaton.token_sets, logits)
        backward = backward_masses(matcher, masses)
        found = marginals(matcher, masses, backward)
        text = best_path(matcher, masses.scores).tokens
        drawn = sample_path(matcher, masses, backward, np.random.default_rng(2).random(24)).tokens
        mass = backward[0, transition_graph_of(automaton).node_of[matcher.state]]
        seen.append((text, drawn, mass, found.class_probability, found.padding, found.entropy))
    assert transition_graph_of(wired).from_epsilon is not None
    for one, other in zip(*seen, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)
