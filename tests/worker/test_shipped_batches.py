"""By default rows share passes, so the last bits of logits depend on the batch; the tokens of the shipped checkpoint do
not."""

import random
from dataclasses import replace

import pytest
import torch

from diffusion_worker.engine.loop import run
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.requests import DecodingMode
from training.requests import request_for
from training.tasks.registry import TASKS
from training.tasks.sample import Sample, SampleSpec

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
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_verified_answers_are_those_of_autoregressive_decoding(dtype: str) -> None:
    """Greedy and sampled, over one canvas and several, in batches."""
    model = load(CHECKPOINT, LoadOptions(threads=1, dtype=dtype))
    requests = [
        replace(request_for(model, sample, DecodingMode.AUTOREGRESSIVE, seed=i), temperature=(0.0, 1.0)[i % 2])
        for i, sample in enumerate(_samples(40))
    ]
    read = run(model, requests, max_num_seqs=16)
    verified = run(model, [replace(each, decoding_mode=DecodingMode.VERIFIED) for each in requests], max_num_seqs=16)
    assert [answer.ids for answer in verified] == [answer.ids for answer in read]
    lengths = [answer.end.usage.completion_tokens for answer in read]
    canvas = model.info.denoising.canvas_length
    assert min(lengths) <= canvas < max(lengths)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_in_half_precision_verified_answers_differ_first_where_two_tokens_are_equally_likely() -> None:
    """Equally up to the rounding error by which the two passes differ."""
    model = load(CHECKPOINT, LoadOptions(threads=1, dtype="bfloat16"))
    requests = [request_for(model, sample, DecodingMode.AUTOREGRESSIVE) for sample in _samples(40)]
    read = run(model, requests, max_num_seqs=16)
    verified = run(model, [replace(each, decoding_mode=DecodingMode.VERIFIED) for each in requests], max_num_seqs=16)
    for request, mine, theirs in zip(requests, verified, read, strict=True):
        if mine.ids != theirs.ids:
            agreed = next(n for n, (a, b) in enumerate(zip((*mine.ids, -1), (*theirs.ids, -1), strict=False)) if a != b)
            text = (*request.prompt_ids, *theirs.ids[:agreed])
            whole, last = _logits(model, text, cut=len(request.prompt_ids)), _logits(model, text, cut=len(text) - 1)
            first, second = last.topk(2).values.tolist()
            assert first - second <= 2 * float((whole - last).abs().max())


def _logits(model: DiffusionModel, text: tuple[int, ...], *, cut: int) -> torch.Tensor:
    """Logits of the token that follows a text, whose first `cut` tokens are read in a pass of their own."""
    cache = KvCache(model.kv_layers, slots=1, slot_tokens=len(text), dtype=model.dtype, device=model.device)
    with torch.inference_mode():
        for first, last in ((0, cut), (cut, len(text))):
            view = cache.prefill_view([0], [first], [last - first])
            hidden = model.encode(torch.tensor([text[first:last]]), view)
            cache.seal(view)
        return model.logits(hidden[0, -1])


def _samples(count: int) -> list[Sample]:
    """Samples with known and invented words; answers to the latter take more than one canvas."""
    names, shares = ("extraction", "clean-up"), (0.0, 1.0)
    return [
        TASKS[names[i % 2]](random.Random(f"verified/{i}"), SampleSpec(split="test", invented=shares[i // 2 % 2]))
        for i in range(count)
    ]
