"""Cost of a step: medians, and the share outside the model."""

import pytest

from benchmarks.worker_steps import ROWS, cost_of, step_costs
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.requests import GenerationRequest


def test_one_slow_step_does_not_move_the_figures() -> None:
    """Both figures and the share are medians."""
    cost = cost_of(2, [(0.010, 0.009), (0.010, 0.009), (5.0, 0.1)])
    assert (cost.step_ms, cost.model_ms, cost.row_ms) == (10.0, 9.0, 5.0)
    assert cost.outside == pytest.approx(0.1)


@pytest.mark.slow
def test_every_number_of_rows_is_stepped() -> None:
    """Canvases that never converge keep all rows busy to the last step."""
    model = ToyModel()
    request = GenerationRequest(prompt_ids=(20, 30), max_tokens=8, seed=0, denoising=model.info.denoising)
    costs = step_costs(model, [request])
    assert tuple(costs) == ROWS
    assert all(0.0 < cost.model_ms <= cost.step_ms for cost in costs.values())
