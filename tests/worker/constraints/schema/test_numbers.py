"""Bounds, digit by digit, against arithmetic."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraints.automata.automaton import ByteAutomaton, freeze
from diffusion_worker.constraints.automata.graph import Graph
from diffusion_worker.constraints.automata.minimise import minimise
from diffusion_worker.constraints.schema.numbers import Bounds, bounded_number, free_number, multiples

BOUND = st.none() | st.decimals(-300, 300, places=2, allow_nan=False, allow_infinity=False).map(Decimal.normalize)
VALUES = st.lists(st.decimals(-400, 400, places=3, allow_nan=False, allow_infinity=False), min_size=10, max_size=40)


def within(bounds: Bounds, value: Decimal) -> bool:
    """Whether the value satisfies the bounds, by definition."""
    low = bounds.low is None or (value > bounds.low if bounds.above else value >= bounds.low)
    return low and (bounds.high is None or (value < bounds.high if bounds.below else value <= bounds.high))


def bounded(bounds: Bounds, fraction: int | None) -> ByteAutomaton | None:
    """The automaton of the numbers within the bounds."""
    graph = Graph(max_states=100_000)
    start = bounded_number(graph, bounds, graph.state([], accepting=True), fraction=fraction)
    minimal = None if start is None else minimise(graph.rows, graph.accepting, start)
    return freeze(minimal.rows, minimal.accepting, minimal.start) if minimal is not None and minimal.rows else None


@given(BOUND, BOUND, st.booleans(), st.booleans(), st.sampled_from([0, 2, None]), VALUES)
def test_a_number_is_accepted_exactly_within_its_bounds(
    low: Decimal | None, high: Decimal | None, above: bool, below: bool, fraction: int | None, values: list[Decimal]
) -> None:
    """For integers, for limited and for free fractions; at the bounds too."""
    bounds = Bounds(low=low, high=high, above=above and low is not None, below=below and high is not None)
    automaton = bounded(bounds, fraction)
    for value in (*values, *(bound for bound in (low, high, Decimal(0)) if bound is not None)):
        text = format(value.quantize(Decimal(1)) if fraction == 0 else value, "f")
        text = text if fraction != 2 or "." not in text else text[: text.index(".") + 3]
        accepted = automaton is not None and automaton.accepts(text.encode())
        assert accepted == within(bounds, Decimal(text)) or text in ("-0", "-0.00", "-0.000"), text


@pytest.mark.parametrize("text", ["0.9999999999999999999", "-1e-400"])
def test_no_text_rounds_onto_an_exclusive_bound(text: str) -> None:
    """As a double it would be the bound itself."""
    automaton = bounded(Bounds(low=Decimal(0), high=Decimal(1), above=True, below=True), None)
    assert automaton is not None
    assert automaton.accepts(b"0.999")
    assert not automaton.accepts(text.encode())
    assert not automaton.accepts(b"0.0")


@pytest.mark.parametrize(
    ("text", "number", "integer"),
    [
        *(
            ("0", True, True),
            ("-12", True, True),
            ("1.5", True, False),
            ("1e5", True, False),
            ("-0.1E+09", True, False),
        ),
        *(("01", False, False), ("1.", False, False), (".5", False, False), ("+1", False, False), ("1e", False, False)),
        *(("1e123", False, False), ("-", False, False), ("", False, False), ("NaN", False, False)),
    ],
)
def test_free_numbers_are_those_of_json(text: str, number: bool, integer: bool) -> None:
    """Except for exponents of three digits, which overflow."""
    for kind, expected in ((False, number), (True, integer)):
        graph = Graph(max_states=1000)
        start = free_number(graph, graph.state([], accepting=True), integer=kind)
        minimal = minimise(graph.rows, graph.accepting, start)
        assert freeze(minimal.rows, minimal.accepting, minimal.start).accepts(text.encode()) == expected


@given(st.integers(1, 40), st.integers(-2000, 2000))
def test_multiples_are_those_without_remainder(modulus: int, value: int) -> None:
    """Multiples of either sign."""
    graph = Graph(max_states=1000)
    start = multiples(graph, modulus, graph.state([], accepting=True))
    minimal = minimise(graph.rows, graph.accepting, start)
    assert freeze(minimal.rows, minimal.accepting, minimal.start).accepts(str(value).encode()) == (value % modulus == 0)
