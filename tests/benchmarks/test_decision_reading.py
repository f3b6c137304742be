"""The development figures of decisions: their texts, and whether questions are read."""

import random

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.decision_reading import answered, own_part, predicate_odds, sample_set
from training.tasks.decisions import DecisionSample
from training.tasks.orders import order
from training.tasks.sample import SampleSpec
from twolane.process.decisions.questions import QuestionKind


def certain(samples: list[DecisionSample]) -> list[tuple[float, ...]]:
    """The right answers, with probability 1."""
    return [
        tuple(float(option == right) for option in range(len(question.labels())))
        for sample in samples
        for question, right in zip(sample.questions, sample.right, strict=True)
    ]


def test_texts_are_those_of_the_training_split_and_draws_differ() -> None:
    samples = sample_set("a", 0, texts=5)
    trained = {order(random.Random(f"development/a/0/{text}"), SampleSpec()).prompt for text in range(5)}
    assert all(any(prompt.endswith(sample.text) for prompt in trained) for sample in samples)
    assert len({sample.questions for sample in samples}) == 1
    assert samples != sample_set("b", 0, texts=5)


def test_right_answers_are_counted_as_right_and_the_usual_one_is_the_most_frequent() -> None:
    samples = sample_set("a", 1, texts=9)
    found = answered(samples, certain(samples))
    assert all(each.is_right for each in found)
    for at in range(len(samples[0].questions)):
        rights = [sample.right[at] for sample in samples]
        assert max(map(rights.count, rights)) == rights.count(found[at].usual)


def test_only_predicates_have_log_odds() -> None:
    samples = sample_set("a", 2, texts=3)
    odds = predicate_odds(samples, certain(samples))
    kinds = [question.kind for question in samples[0].questions]
    assert [len(text) for text in odds] == [kinds.count(QuestionKind.PREDICATE)] * 3


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=20, unique=True))
def test_equal_answers_to_all_predicates_of_a_text_have_no_part_of_their_own(texts: list[float]) -> None:
    assert own_part([[each] * 3 for each in texts]) < 1e-9


@given(st.integers(0, 2**32))
def test_answers_without_anything_in_common_are_their_own_entirely(seed: int) -> None:
    rng = random.Random(seed)
    assert 0.8 < own_part([[rng.gauss(0, 1) for _ in range(4)] for _ in range(200)]) < 1.2
