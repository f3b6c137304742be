"""The engine under load: its arithmetic, and a short load on the scripted model."""

import pytest

from benchmarks.worker_load import growth, quantile, short, under_load
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.requests import GenerationRequest


def test_a_quantile_is_a_value_that_occurred() -> None:
    """The 99th of a hundred, the only one of one."""
    assert quantile(range(100), 0.99) == 99
    assert quantile([7.0], 0.99) == 7.0


def test_growth_leaves_out_the_first_tenth() -> None:
    """A single allocation at the start is not a leak; continued growth is."""
    assert growth([0] * 10 + [50] * 90) == 0
    assert growth(range(100)) == pytest.approx(80)


@pytest.mark.anyio
async def test_a_load_is_served_to_its_end() -> None:
    """The ticker has ticked and every short request was answered."""
    model = ToyModel()
    request = GenerationRequest(prompt_ids=tuple(range(20, 50)), max_tokens=8, seed=0, denoising=model.info.denoising)
    assert len(short(request).prompt_ids) == 16
    seen = await under_load(model, [request], seconds=0.05, num_requests=20)
    assert seen.num_requests == 20
    assert seen.stall_p99_ms >= 0.0
