"""The wiring of an automaton says what its edges say, with fewer ways."""

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
from diffusion_worker.constraints.inference.marginals import marginals, remaining
from diffusion_worker.constraints.inference.matcher import open_cursor
from diffusion_worker.constraints.inference.sample import sample_path
from diffusion_worker.constraints.inference.token_set_scores import weigh_classes
from diffusion_worker.constraints.inference.viterbi import best_path, completions
from diffusion_worker.constraints.tokens.compilation import lift
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.constraints.tokens.transition_graph import Ways, Wiring, wiring_of
from tests.worker.constraints.by_hand import Case, cases
from tests.worker.constraints.inference.test_viterbi import opened

# Any key may follow any other, so most states behind a value have the same edges.
KEYS = {"type": "object", "properties": {name: {"type": "string"} for name in ("ape", "bee", "cat", "dog", "eel")}}


@pytest.fixture(autouse=True, scope="module")
def hubs_wherever_they_save_a_way() -> Iterator[None]:
    """Small automata have none otherwise."""
    with patch("diffusion_worker.constraints.tokens.transition_graph._LEAST_SAVED", 1):
        yield


def keyed() -> TokenAutomaton:
    automaton = lift(compile_schema(KEYS).automaton, shipped().read())
    assert automaton is not None
    return automaton


def unrolled(ways: Ways | None, first: int) -> dict[int, list[tuple[int, int]]]:
    """Node -> what its ways read and where they lead."""
    found: dict[int, list[tuple[int, int]]] = {}
    if ways is not None:
        owner = np.zeros(len(ways.label))
        ways.runs.lower(owner, -np.arange(ways.runs.count, dtype=np.float64))
        for node, label, target in zip(owner.astype(int) + first, ways.label, ways.target, strict=True):
            found.setdefault(int(node), []).append((int(label), int(target)))
    return found


def edges_by_node(wiring: Wiring) -> dict[int, Counter[tuple[int, int]]]:
    """Node of a state -> its edges, those of its hubs among them."""
    hubs = unrolled(wiring.from_hubs, wiring.states)
    return {
        node: Counter(way for label, target in ways for way in hubs.get(target, [(label, target)]))
        for node, ways in unrolled(wiring.from_states, 0).items()
    }


def told(automaton: TokenAutomaton, wiring: Wiring) -> dict[int, Counter[tuple[int, int]]]:
    return {
        int(wiring.node_of[state]): Counter(
            (int(automaton.label[edge]), int(wiring.node_of[automaton.target[edge]]))
            for edge in range(automaton.first_edge[state], automaton.first_edge[state + 1])
        )
        for state in range(automaton.states)
    }


@given(cases(), st.integers(1, 6))
def test_it_has_the_edges_of_the_automaton(case: Case, max_tokens: int) -> None:
    """None more, none less, none twice."""
    automaton = opened(case, max_tokens).automaton
    assert edges_by_node(wiring_of(automaton)) == told(automaton, wiring_of(automaton))


def test_what_states_share_is_wired_once() -> None:
    """And still every state has its edges."""
    automaton = keyed()
    wiring = wiring_of(automaton)
    assert wiring.from_hubs is not None
    ways = len(wiring.from_states.label) + len(wiring.from_hubs.label)
    assert ways < 0.8 * automaton.edges
    assert edges_by_node(wiring) == told(automaton, wiring)


def test_few_shared_edges_are_not_worth_another_kind_of_node() -> None:
    """Its calls would take longer than the edges."""
    with patch("diffusion_worker.constraints.tokens.transition_graph._LEAST_SAVED", 2000):
        automaton = keyed()
        wiring = wiring_of(automaton)
    assert wiring.from_hubs is None
    assert len(wiring.from_states.label) == automaton.edges
    assert edges_by_node(wiring) == told(automaton, wiring)


def test_it_is_made_once_and_dies_with_its_automaton() -> None:
    automaton = keyed()
    assert wiring_of(automaton) is wiring_of(automaton)
    wiring = weakref.ref(wiring_of(automaton).from_states.runs)
    del automaton
    gc.collect()
    assert wiring() is None


def test_values_are_those_of_every_edge_by_itself() -> None:
    """The best completions, by the automaton's own edges."""
    automaton = keyed()
    matcher, wiring = open_cursor(automaton, 30), wiring_of(automaton)
    best = -np.random.default_rng(0).random((20, automaton.classes.classes + 1))
    best[:, -1] = 0.0  # any token, unscored
    found = completions(matcher, best)[:, wiring.node_of]
    for position in range(20):
        edges = best[position, automaton.label] + found[position + 1, automaton.target]
        expected = np.full(automaton.states, -np.inf)
        np.maximum.at(expected, automaton.source, edges)
        assert (found[position] == expected).all()


def test_hubs_change_neither_texts_nor_masses_nor_marginals() -> None:
    """The same automaton wired with and without."""
    wired, plain = keyed(), keyed()
    with patch("diffusion_worker.constraints.tokens.transition_graph._LEAST_SAVED", 2000):
        assert wiring_of(plain).from_hubs is None
    logits = np.random.default_rng(1).standard_normal((24, len(plain.classes.order)), dtype=np.float32) * 3
    seen = []
    for automaton in (wired, plain):
        matcher, masses = open_cursor(automaton, 40), weigh_classes(automaton.classes, logits)
        onward = remaining(matcher, masses)
        found = marginals(matcher, masses, onward)
        text = best_path(matcher, masses.scores).tokens
        drawn = sample_path(matcher, masses, onward, np.random.default_rng(2).random(24)).tokens
        mass = onward[0, wiring_of(automaton).node_of[matcher.state]]
        seen.append((text, drawn, mass, found.atom, found.tail, found.entropy))
    assert wiring_of(wired).from_hubs is not None
    for one, other in zip(*seen, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)
