"""Serialisation of token automata."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.constraints.tokens.token_automaton import from_bytes, to_bytes
from tests.worker.constraints.by_enumeration import Case, cases


@given(cases())
def test_serialisation_round_trips(case: Case) -> None:
    """Field by field."""
    automaton = compile_tokens(case.language, case.vocabulary)
    assume(automaton is not None)
    again = from_bytes(to_bytes(automaton))
    for went, came in ((automaton, again), (automaton.token_sets, again.token_sets)):
        for field in dataclasses.fields(went):
            before, after = getattr(went, field.name), getattr(came, field.name)
            if isinstance(before, np.ndarray):
                assert before.dtype == after.dtype
                assert (before == after).all()
            elif field.name != "token_sets":
                assert before == after
                assert type(before) is type(after)


@given(cases(), st.integers(0, 400))
def test_a_truncated_file_is_refused(case: Case, kept: int) -> None:
    """A full disk must not become a wrong constraint."""
    automaton = compile_tokens(case.language, case.vocabulary)
    assume(automaton is not None)
    with pytest.raises(ValueError):
        from_bytes(to_bytes(automaton)[:kept])
