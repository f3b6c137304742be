"""By default rows share passes, so the last bits depend on the company; the tokens of the shipped checkpoint do not."""

import random

import pytest

from diffusion_worker.engine.loop import run
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.generation import DecodingMode
from training.asks import ask_for
from training.tasks.registry import TASKS
from training.tasks.sample import Wish


@pytest.mark.slow
def test_mixed_requests_are_answered_alike_alone_and_together() -> None:
    net = load("checkpoints/twolane-tiny", LoadOptions(threads=1))
    names = ("extraction", "sudoku", "clean-up")
    samples = [TASKS[names[i % 3]](random.Random(f"together/{i}"), Wish(split="test")) for i in range(40)]
    asks = [
        ask_for(net, sample, DecodingMode.DIFFUSION, from_source=bool(sample.source) and i % 2 == 0, seed=i)
        for i, sample in enumerate(samples)
    ]
    together = run(net, asks, max_num_seqs=16)
    alone = [run(net, [ask], max_num_seqs=1)[0] for ask in asks]
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]
    assert [a.end.usage.denoising_steps for a in together] == [a.end.usage.denoising_steps for a in alone]
