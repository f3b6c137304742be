"""The matcher: its next-token mask, checked by walking every token."""

import numpy as np

from benchmarks.vocabularies import shipped
from diffusion_worker.constraints.compile import compile_constraint
from diffusion_worker.constraints.inference.matcher import allowed_tokens, forced_tokens, open_matcher
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton

WORDS = shipped()
VOCABULARY = WORDS.read()


def automaton_of(pattern: str) -> TokenAutomaton:
    automaton = compile_tokens(compile_constraint(Constraint(kind="regex", value=pattern)).automaton, VOCABULARY)
    assert automaton is not None
    return automaton


def test_allowed_tokens_lead_on_and_still_close_in_time() -> None:
    """Along a text, for every budget from the tightest."""
    automaton = automaton_of('"([^"\\\\x]|xyz)*"')
    matcher = open_matcher(automaton, 7)
    for token in WORDS.tokens.index(b'"'), WORDS.tokens.index(b"x"), WORDS.tokens.index(b"y"):
        flags = allowed_tokens(matcher)
        after = [automaton.after(matcher.state, each) for each in range(VOCABULARY.size)]
        fits = [state >= 0 and automaton.distance[state] <= matcher.tokens_left - 1 for state in after]
        assert flags.tolist() == fits
        assert flags.any()
        matcher = matcher.after((token,))


def test_near_the_end_only_closing_tokens_are_allowed() -> None:
    automaton = automaton_of('"[a-z]*"')
    matcher = open_matcher(automaton, 4).after((WORDS.tokens.index(b'"'),))
    assert allowed_tokens(matcher).sum() == 27
    matcher = matcher.after((WORDS.tokens.index(b"a"),))
    assert np.flatnonzero(allowed_tokens(matcher)).tolist() == [WORDS.tokens.index(b'"')]


def test_a_token_without_an_alternative_is_forced() -> None:
    automaton = automaton_of("ab[cd]e")
    tokens = np.array([WORDS.tokens.index(bytes([byte])) for byte in b"abde"] + [WORDS.end_id], np.int32)
    assert forced_tokens(automaton, automaton.start, tokens).tolist() == [True, True, False, True, True]
