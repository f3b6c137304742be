"""The minimal automaton, against Moore's textbook algorithm on dense tables."""

import random

from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraints.automata.automaton import freeze
from diffusion_worker.constraints.automata.minimise import EMPTY, minimise
from tests.worker.constraints.reference import is_trimmed, moore_classes

WORDS = st.lists(st.binary(max_size=8).map(lambda word: bytes(97 + byte % 3 for byte in word)), max_size=20)


def scrambled(seed: int) -> tuple[list[list[tuple[int, int, int]]], list[bool]]:
    """A random automaton over three letters, dead ends and unreachable states included."""
    draw = random.Random(seed)
    size = draw.randint(1, 14)
    rows = [
        [(97 + letter, 97 + letter, draw.randrange(size)) for letter in range(3) if draw.random() < 0.7]
        for _ in range(size)
    ]
    return rows, [draw.random() < 0.3 for _ in range(size)]


def run(rows: list[list[tuple[int, int, int]]], accepting: list[bool], word: bytes) -> bool:
    """Membership by definition."""
    state = 0
    for byte in word:
        ahead = [target for first, last, target in rows[state] if first <= byte <= last]
        if not ahead:
            return False
        state = ahead[0]
    return accepting[state]


@given(st.integers(0, 2**32), WORDS)
def test_the_language_is_preserved_with_the_fewest_states(seed: int, words: list[bytes]) -> None:
    """The same language with the minimum number of states, all of them live."""
    rows, accepting = scrambled(seed)
    small = minimise(rows, accepting, 0)
    if small is EMPTY:
        assert not any(run(rows, accepting, word) for word in words)
        return
    automaton = freeze(small.rows, small.accepting, small.start)
    assert all(automaton.accepts(word) == run(rows, accepting, word) for word in words)
    assert moore_classes(automaton) == automaton.states
    assert is_trimmed(automaton)


def test_long_chains_with_different_ends_are_distinguished() -> None:
    """Depth costs no rounds: the initial partition already separates the ends."""
    length = 3000
    rows = [[(97, 97, state + 1)] for state in range(length)] + [[]]
    small = minimise(rows, [False] * length + [True], 0)
    assert len(small.rows) == length + 1


def test_a_loop_and_its_unrolled_copy_are_merged() -> None:
    """States with equal languages are merged."""
    rows = [[(97, 97, 1)], [(97, 97, 2)], [(97, 97, 1)]]
    assert len(minimise(rows, [True, True, True], 0).rows) == 1
