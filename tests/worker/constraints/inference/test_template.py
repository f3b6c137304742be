"""Holes of a canvas: probabilities of labels of many tokens, in two passes."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraints.inference.template import FREE, Hole, Template, template_of

END, PAD = 0, 9
LABELS = st.lists(
    st.lists(st.integers(1, 3), max_size=4).map(lambda ids: (*ids, END)), min_size=2, max_size=12, unique=True
)
Chance = Callable[[tuple[int, ...], int], float]  # of a token behind the beginning of a label


def one_hole(labels: Sequence[tuple[int, ...]], *, before: Sequence[int] = (7, 8)) -> Template:
    return template_of([(before, labels)], (END, PAD), pad_id=PAD)


def logits_for(template: Template, shown: Sequence[int], chance: Chance) -> np.ndarray:
    """What a model says at the sites that sees the pinned tokens before them, up to the first hole."""
    found = []
    for position, token in template.sites:
        [hole] = template.holes
        before = tuple(shown[hole.start : position])
        known = before[: before.index(FREE)] if FREE in before else before
        found.append(math.log(chance(known, token)))
    return np.array(found)


@given(labels=LABELS, seed=st.integers(0, 2**32 - 1))
def test_probabilities_sum_to_one_after_each_of_two_passes(labels: list[tuple[int, ...]], seed: int) -> None:
    """And one pass is enough exactly if the likeliest label has no second branch."""
    random = np.random.default_rng(seed)
    first = one_hole(labels)
    [shares] = first.probabilities(20 * random.normal(size=len(first.sites)))
    assert (len(shares), sum(shares)) == (len(labels), pytest.approx(1.0, abs=1e-9))
    second = first.narrowed([shares])
    best = int(np.argmax(shares))
    deeper = [ids for ids in labels if ids[: second.holes[0].pinned] == labels[best][: second.holes[0].pinned]]
    assert second.is_decided == (len(deeper) == 1)
    [again] = second.probabilities(20 * random.normal(size=len(second.sites)))
    assert sum(again) == pytest.approx(1.0, abs=1e-9)
    for ids, before, after in zip(labels, shares, again, strict=True):
        if ids not in deeper:
            assert after == pytest.approx(before, abs=1e-9)


def test_neither_length_nor_a_common_beginning_of_labels_has_a_weight() -> None:
    """A label's probability is its share where the labels part, whatever the model says of the tokens around it."""
    template = one_hole([(1, 1, 2, END), (1, 1, 3, 3, 3, 3, END)])
    assert template.sites == ((4, 2), (4, 3))
    assert template.pins[:5] == (7, 8, 1, 1, FREE)
    [shares] = template.probabilities(np.log([0.3, 0.1]))
    assert shares == pytest.approx((0.75, 0.25))


def test_a_label_that_begins_another_ends_where_they_part() -> None:
    template = one_hole([(1, END), (1, 2, END)])
    [shares] = template.probabilities(np.log([0.2, 0.6]))
    assert shares == pytest.approx((0.25, 0.75))


def test_the_second_pass_knows_the_first_token() -> None:
    """The model's tokens are dependent: 1 is followed by 2, and 3 by 4, so that (1, 4) and (3, 2) are impossible. The
    first pass cannot know that; the second one finds it out for the likeliest beginning."""
    labels = [(1, 2, END), (1, 4, END), (3, 2, END), (3, 4, END)]

    def chance(before: tuple[int, ...], token: int) -> float:
        return {(): {1: 0.6, 3: 0.4, 2: 0.6, 4: 0.4}, (1,): {2: 0.99, 4: 0.01}}[before][token]

    first = one_hole(labels)
    [shares] = first.probabilities(logits_for(first, first.pins, chance))
    assert shares == pytest.approx((0.36, 0.24, 0.24, 0.16))
    second = first.narrowed([shares])
    assert second.pins[2:5] == (1, FREE, FREE)
    [shares] = second.probabilities(logits_for(second, second.pins, chance))
    assert shares == pytest.approx((0.594, 0.006, 0.24, 0.16))


def test_decided_holes_show_their_answer_in_the_second_pass() -> None:
    """With padding behind a short label, as in training."""
    labels = [(1, END), (2, 3, 3, END)]
    undecided = [(1, 2, END), (1, 3, END), (2, 2, END)]
    template = template_of([((5,), labels), ((6,), undecided)], (PAD,), pad_id=PAD)
    assert template.pins == (5, FREE, FREE, FREE, FREE, 6, FREE, FREE, FREE, PAD)
    second = template.narrowed([(0.9, 0.1), (0.5, 0.3, 0.2)])
    assert second.pins == (5, 1, END, PAD, PAD, 6, 1, FREE, FREE, PAD)
    assert second.sites == ((7, 2), (7, 3))


def test_probabilities_of_very_sure_models_stay_finite() -> None:
    hole = Hole(start=0, labels=tuple((index,) for index in range(255)))
    shares = hole.probabilities(np.array([-800.0] * 254 + [800.0]))
    assert shares[-1] == 1.0
    assert sum(shares) == 1.0
