"""The best path is the best of all texts that can close in time."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from diffusion_worker.constraints.inference.matcher import CanvasPath, Matcher, open_matcher
from diffusion_worker.constraints.inference.token_set_scores import score_token_sets
from diffusion_worker.constraints.inference.viterbi import best_path
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.errors import AnswerDoesNotFit
from tests.worker.constraints.by_enumeration import PADDING, Case, cases


def opened(case: Case, max_tokens: int) -> Matcher:
    """A matcher at the beginning, where the case has one."""
    automaton = compile_tokens(case.language, case.vocabulary)
    assume(automaton is not None and automaton.distance[automaton.start] <= max_tokens)
    return open_matcher(automaton, max_tokens)


def best(matcher: Matcher, logits: np.ndarray) -> CanvasPath:
    return best_path(matcher, score_token_sets(matcher.automaton.token_sets, logits))


@given(cases(), st.integers(1, 6))
def test_the_best_path_is_optimal(case: Case, max_tokens: int) -> None:
    """Against every text written out; a path that is allowed exists whenever the shortest answer fits."""
    path = best(opened(case, max_tokens), case.logits)
    texts = case.texts(max_tokens)
    ids = tuple(path.tokens[: path.length].tolist())
    assert ids in texts
    assert path.logprob == pytest.approx(max(texts.values()), rel=1e-5, abs=1e-3)
    assert (path.tokens[path.length :] == PADDING).all()


@given(cases(), st.integers(1, 6))
def test_a_known_normaliser_changes_nothing(case: Case, max_tokens: int) -> None:
    """It equals the log of the sum of exponentials."""
    matcher = opened(case, max_tokens)
    known = np.logaddexp.reduce(case.logits, axis=1)
    path = best_path(matcher, score_token_sets(matcher.automaton.token_sets, case.logits, known))
    assert path.logprob == pytest.approx(best(matcher, case.logits).logprob, rel=1e-5, abs=1e-3)


@given(cases(canvas=2), st.integers(1, 7), st.randoms(use_true_random=False))
def test_canvas_after_canvas_the_text_closes_in_time(case: Case, max_tokens: int, random: object) -> None:
    """For any logits the path stays within the budget, and advancing the matcher by its tokens gives the path's
    matcher."""
    matcher = opened(case, max_tokens)
    written: list[int] = []
    while matcher.tokens_left and not matcher.is_done:
        logits = np.random.default_rng(random.getrandbits(32)).standard_normal(case.logits.shape) * 5
        path = best(matcher, logits.astype(np.float32))
        assert matcher.after(path.tokens.tolist()) == path.matcher
        written += path.tokens[: path.length].tolist()
        matcher = path.matcher
    assert matcher.is_done
    assert len(written) <= max_tokens
    assert case.language.accepts(b"".join(case.tokens[token] for token in written))


@given(cases(), st.integers(1, 6))
def test_infinite_logits_still_leave_a_path(case: Case, max_tokens: int) -> None:
    """Logits of -inf lower a token's score; they do not break the guarantee."""
    matcher = opened(case, max_tokens)
    logits = np.full_like(case.logits, -np.inf)
    logits[:, PADDING] = 0.0
    path = best(matcher, logits)
    assert tuple(path.tokens[: path.length].tolist()) in case.texts(max_tokens)


@given(cases(), st.integers(1, 3))
def test_an_answer_that_cannot_fit_is_refused_before_the_first_canvas(case: Case, lacking: int) -> None:
    """The error names the shortest answer and the limit. A sufficient limit is accepted."""
    automaton = compile_tokens(case.language, case.vocabulary)
    assume(automaton is not None)
    shortest = int(automaton.distance[automaton.start])
    assert open_matcher(automaton, shortest).tokens_left == shortest
    with pytest.raises(AnswerDoesNotFit, match=str(shortest)) as caught:
        open_matcher(automaton, shortest - lacking)
    assert caught.value.param == "max_tokens"


@given(cases(canvas=2), st.integers(1, 6))
def test_a_canvas_that_violates_the_constraint_or_budget_is_refused(case: Case, max_tokens: int) -> None:
    """`after` accepts exactly what the enumeration allows."""
    matcher = opened(case, max_tokens)
    texts = case.texts(max_tokens)
    positions = matcher.remaining_positions(2)
    for first in range(len(case.tokens)):
        for second in range(len(case.tokens)):
            ids = (first, second)[:positions]
            is_allowed = ids in texts or ids[:1] in texts
            try:
                matcher.after((first, second))
            except ValueError:
                assert not is_allowed
            else:
                assert is_allowed
