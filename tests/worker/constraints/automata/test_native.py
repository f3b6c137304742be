"""The C module computes what the Python code does; it is optional, so these tests need a build of it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraints.automata import graph as graph_module
from diffusion_worker.constraints.automata.graph import (
    SELF,
    Graph,
    TooLarge,
    coalesce,
    coalesce_in_python,
    overlay,
    overlay_in_python,
)
from diffusion_worker.constraints.automata.minimise import minimal_automaton, minimise, minimise_in_python
from diffusion_worker.constraints.automata.native import NATIVE

pytestmark = pytest.mark.skipif(NATIVE is None, reason="diffusion_worker.constraints.automata._native is not built")
Row = list[tuple[int, int, int]]
LABEL = st.integers(0, 12)
ROWS = st.lists(
    st.lists(st.tuples(LABEL, LABEL, st.integers(0, 6)).map(lambda e: (min(e[:2]), max(e[:2]), e[2]))), max_size=5
)


def random_rows(seed: int) -> tuple[list[Row], list[bool]]:
    """Deterministic rows of ranges, dead ends and unreachable states included."""
    draw = random.Random(seed)
    states = draw.randint(1, 12)
    rows: list[Row] = []
    for _ in range(states):
        points = sorted(draw.sample(range(14), 2 * draw.randint(0, 5)))
        rows.append([(a, b - 1, draw.randrange(states)) for a, b in zip(points[::2], points[1::2], strict=True)])
    return rows, [draw.random() < 0.3 for _ in rows]


@given(ROWS)
def test_overlapping_rows_are_laid_out_alike(rows: list[Row]) -> None:
    assert overlay(rows) == overlay_in_python(rows)
    assert [coalesce(row) for row in rows] == [coalesce_in_python(row) for row in rows]


@given(st.integers(0, 2**32))
def test_minimal_automata_are_equal(seed: int) -> None:
    """Also their numbering, because results are cached by content."""
    rows, accepting = random_rows(seed)
    found, expected = minimise(rows, accepting, 0), minimise_in_python(rows, accepting, 0)
    assert (found.rows, found.accepting) == (expected.rows, expected.accepting)
    automaton = minimal_automaton(rows, accepting, 0)
    assert (automaton is None) == (not expected.rows)
    if automaton is not None:
        assert automaton.rows() == [list(row) for row in expected.rows]
        assert automaton.accepting.tolist() == list(expected.accepting)


@pytest.fixture(name="in_python")
def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_module, "NATIVE", None)


def built(seed: int) -> tuple[list[tuple[tuple[int, int, int], ...]], list[bool], list[int]]:
    """A graph after states, loops, unions, intersections and copies drawn by the seed."""
    draw = random.Random(seed)
    graph = Graph(max_states=100_000)
    made = [graph.state([], accepting=True)]
    block = (((1, 2, 1), (5, 5, -1)), ((3, 3, 0), (4, 6, -1)))
    for _ in range(30):
        points = sorted(draw.sample(range(14), 4))
        targets = [draw.choice([SELF, *made]) for _ in range(2)]
        made.append(
            draw.choice(
                [
                    lambda p=points, t=targets: graph.state(
                        [(p[0], p[1] - 1, t[0]), (p[2], p[3], t[1])], accepting=p[0] % 3 == 0
                    ),
                    lambda: graph.union(draw.choices(made, k=draw.randint(1, 3))),
                    lambda: graph.intersect(draw.choice(made), draw.choice(made)),
                    lambda: graph.paste(block, draw.choice(made)),
                ]
            )()
        )
    return graph.rows, graph.accepting, made


@pytest.mark.parametrize("seed", range(40))
def test_graphs_grow_alike(seed: int, request: pytest.FixtureRequest) -> None:
    in_c = built(seed)
    request.getfixturevalue("in_python")
    assert built(seed) == in_c


@pytest.mark.parametrize("is_native", [True, False])
def test_the_budget_of_states_is_kept(is_native: bool, request: pytest.FixtureRequest) -> None:
    if not is_native:
        request.getfixturevalue("in_python")
    graph = Graph(max_states=3)
    first, second = graph.state([], accepting=True), graph.reserve()
    graph.fill(second, [(1, 1, first)])
    third = graph.state([(1, 4, second)])
    for one_more in (
        graph.reserve,
        lambda: graph.state([(9, 9, first)]),
        lambda: graph.union([second, third]),
        lambda: graph.intersect(second, third),
        lambda: graph.paste((((1, 1, -1),),), first),
    ):
        with pytest.raises(TooLarge):
            one_more()
    assert len(graph.rows) == 3


@pytest.mark.parametrize("rows", [[[(0, 1)]], [[(0, 1, 9)]], [[(0, 1, "a")]], [None]])
def test_malformed_rows_are_refused(rows: object) -> None:
    """Instead of reading beyond an array."""
    with pytest.raises((TypeError, ValueError)):
        minimise(rows, [True], 0)  # type: ignore[arg-type]
