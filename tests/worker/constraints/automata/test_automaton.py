"""The byte automaton."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.constraints.reference import automaton_of, is_trimmed, moore_classes

WORDS = st.sets(st.binary(max_size=4), min_size=1, max_size=12)
ANY_BYTES = st.binary(max_size=5)


@given(WORDS, ANY_BYTES)
def test_a_finite_language_accepts_exactly_its_words(words: set[bytes], other: bytes) -> None:
    """Membership is exact."""
    automaton = automaton_of(words)
    assert all(automaton.accepts(word) for word in words)
    assert automaton.accepts(other) == (other in words)


@given(WORDS)
def test_bytes_with_equal_columns_share_a_class(words: set[bytes]) -> None:
    """Byte classes lose no transition, and no two columns are equal."""
    automaton = automaton_of(words)
    assert automaton.classes.shape == (256,)
    columns = {column.tobytes() for column in np.ascontiguousarray(automaton.next.T)}
    assert len(columns) == automaton.next.shape[1] == automaton.classes.max() + 1


@given(WORDS)
def test_the_reference_is_minimal_and_trimmed(words: set[bytes]) -> None:
    """So it can serve as a reference."""
    automaton = automaton_of(words)
    assert moore_classes(automaton) == automaton.states
    assert is_trimmed(automaton)


@pytest.mark.parametrize(("text", "end"), [(b"", True), (b"a", True), (b"ab", True), (b"b", False), (b"abc", False)])
def test_a_walk_stays_dead_after_a_missing_transition(text: bytes, end: bool) -> None:
    """The dead state has no way out."""
    automaton = automaton_of({b"ab", b"ac"})
    assert (automaton.walk(automaton.start, text) != -1) == end
