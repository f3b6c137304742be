"""Training stages are data: learning rates and unrolled steps follow from them."""

import random

import pytest

from training.stages import POLISH, STAGES, Part, Stage


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES.keys())
def test_the_rate_warms_up_holds_and_falls_to_a_fiftieth(stage: Stage) -> None:
    rates = [stage.rate(step, stage.steps) for step in range(stage.steps)]
    assert rates[0] < stage.peak_rate / 10
    assert max(rates) == stage.peak_rate
    assert rates[int(stage.held * stage.steps) - 1] == stage.peak_rate
    assert 0.0 < rates[-1] <= stage.peak_rate / 40
    falling = rates[int(stage.held * stage.steps) :]
    assert falling == sorted(falling, reverse=True)


def test_an_anchored_part_unrolls_cold_and_anchored_steps_only() -> None:
    dice = random.Random(1)
    anchored = next(part for part in POLISH.parts if part.is_anchored)
    for _ in range(100):
        unroll = POLISH.unroll(dice, anchored, 0.5)
        assert set(unroll.temperatures) <= {0.4}
        assert len(unroll.temperatures) <= 2
        assert unroll.renoises
        assert 0.5 <= unroll.anchor <= 1.0


def test_real_steps_are_unrolled_only_once_the_model_can_spell() -> None:
    stage, part = STAGES["scratch"], Part(rows=(("sudoku", 1, 0.0),))
    early = [stage.unroll(random.Random(seed), part, 0.1) for seed in range(100)]
    late = [stage.unroll(random.Random(seed), part, 0.9) for seed in range(100)]
    assert not any(each.renoises for each in early)
    assert any(each.renoises for each in late)


def test_a_part_yields_as_many_samples_of_each_task_as_it_says() -> None:
    part = Part(rows=(("clean-up", 3, 0.3), ("out-of-distribution", 2, 0.0)))
    samples = part.samples(random.Random(1))
    assert len(samples) == 5
    assert sum(bool(sample.source) for sample in samples) == 3
