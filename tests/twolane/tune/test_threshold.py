"""The minimum confidence: precise enough, and as low as it may be."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.policy_files.load import parse
from tests.twolane.tune.test_plan import trial
from twolane.tune.report import policy_of
from twolane.tune.threshold import MIN_ANSWERS, Judged, find_threshold

JUDGED = st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), max_size=80)
SEPARATED = [(0.9 + i / 1000, True) for i in range(30)] + [(0.1 + i / 1000, False) for i in range(30)]


@given(JUDGED, st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_it_keeps_its_promise_and_no_lower_one_serves_more_correct_answers(
    judged: list[Judged], precision: float
) -> None:
    def served(minimum: float) -> tuple[int, int]:
        found = [is_right for confidence, is_right in judged if confidence >= minimum]
        return sum(found), len(found)

    found = find_threshold(judged, precision=precision)
    enough = len(judged) >= MIN_ANSWERS
    good = [c for c, _ in judged if enough and served(c)[0] and served(c)[0] / served(c)[1] >= precision]
    assert (found is None) == (not good)
    if found is not None:
        assert found.recall == served(min(good))[0] / sum(is_right for _, is_right in judged)
        assert found.precision >= precision
        assert found.minimum == min(good)


def test_a_wide_gap_between_right_and_wrong_answers_is_found() -> None:
    found = find_threshold(SEPARATED, precision=0.95)
    assert found is not None
    assert 0.12 < found.minimum <= 0.9
    assert (found.precision >= 0.95, found.recall, found.precision_without) == (True, 1.0, 0.5)


def test_few_answers_give_no_threshold() -> None:
    assert find_threshold([(0.9, True)] * (MIN_ANSWERS - 1), precision=0.95) is None


def test_the_policy_sets_it_and_says_what_was_measured() -> None:
    found = find_threshold(SEPARATED, precision=1.0)
    assert found is not None
    text = policy_of(trial(80, 0.95), url="http://h:1", model="diffusion", threshold=found)
    assert parse(text, {}, file="tuned").lanes[0].min_confidence == found.minimum
    assert "(50.0% without it)" in text
