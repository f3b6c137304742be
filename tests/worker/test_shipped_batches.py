"""By default rows share passes, so the last bits of logits depend on the batch; the tokens of the shipped checkpoint do
not."""

import random

import pytest

from diffusion_worker.engine.loop import run
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.requests import DecodingMode
from training.identity import SETTINGS, compare, requests_for
from training.requests import request_for
from training.tasks.registry import TASKS
from training.tasks.sample import SampleSpec

CHECKPOINT = "checkpoints/twolane-tiny"


@pytest.mark.slow
def test_mixed_requests_are_answered_alike_alone_and_together() -> None:
    model = load(CHECKPOINT, LoadOptions(threads=1))
    names = ("extraction", "sudoku", "clean-up")
    samples = [TASKS[names[i % 3]](random.Random(f"together/{i}"), SampleSpec(split="test")) for i in range(40)]
    requests = [
        request_for(model, sample, DecodingMode.DIFFUSION, from_source=bool(sample.source) and i % 2 == 0, seed=i)
        for i, sample in enumerate(samples)
    ]
    together = run(model, requests, max_num_seqs=16)
    alone = [run(model, [request], max_num_seqs=1)[0] for request in requests]
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]
    assert [a.end.usage.denoising_steps for a in together] == [a.end.usage.denoising_steps for a in alone]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("dtype", SETTINGS)
def test_verified_answers_are_those_of_autoregressive_decoding(dtype: str) -> None:
    """Greedy and sampled, over one canvas and several, in batches, within the window and beyond it. In half precision,
    greedy answers differ first where two tokens are equally likely up to rounding."""
    model = load(CHECKPOINT, LoadOptions(threads=1, dtype=dtype))
    for temperature in SETTINGS[dtype]:
        found = compare(model, requests_for(model, 35, temperature))
        assert found.is_cleared, found
        assert 0 < found.several_canvases < found.answers
        assert 0 < found.beyond_window < found.answers
