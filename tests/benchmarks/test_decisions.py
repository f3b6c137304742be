"""The figures of the benchmark of decisions, and the bars."""

from dataclasses import replace

import pytest

from benchmarks.decisions import Figures, Kind, measure
from diffusion_worker.models.loader import LoadOptions, load
from training.tasks.decisions import QUESTIONS

GOOD = Figures(
    questions=4,
    kinds=(
        Kind(kind="predicate", count=3, canvas=0.9, left_to_right=0.9, majority=0.6),
        Kind(kind="choice", count=1, canvas=0.8, left_to_right=0.8, majority=0.5),
    ),
    canvas_per_s=50.0,
    left_to_right_per_s=10.0,
    canvas_passes=1.2,
    left_to_right_passes=12.0,
    ece=0.05,
)


def test_every_bar_can_be_missed() -> None:
    assert GOOD.missed == []
    worse = [
        replace(GOOD, canvas_per_s=49.0),
        replace(GOOD, kinds=tuple(replace(kind, majority=kind.majority + 0.2) for kind in GOOD.kinds)),
        replace(GOOD, kinds=tuple(replace(kind, left_to_right=kind.canvas + 0.02) for kind in GOOD.kinds)),
        replace(GOOD, ece=0.051),
    ]
    assert [len(figures.missed) for figures in worse] == [1, 1, 1, 1]


@pytest.mark.slow
def test_both_ways_answer_every_question() -> None:
    found = measure(load("checkpoints/twolane-tiny", LoadOptions(threads=1)), 1)
    assert found.questions == sum(kind.count for kind in found.kinds) == QUESTIONS
    assert 1.0 <= found.canvas_passes <= 2.0
    assert found.left_to_right_passes > 5.0
