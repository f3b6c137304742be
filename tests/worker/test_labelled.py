"""Labels through the whole loop: chosen in two steps, without an effect on other rows of the batch."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffusion_worker.constraints.inference.labels import Labels, compile_labels, index_tokens, label_logprobs
from diffusion_worker.constraints.tokens.vocabulary_bytes import make_vocabulary_bytes
from diffusion_worker.engine.loop import Capacity, Loop, run
from diffusion_worker.errors import NotFinite
from diffusion_worker.models.interface import CanvasContext
from diffusion_worker.types.events import BlockSealed, Faulted, Finished, FinishReason
from diffusion_worker.types.requests import GenerationRequest
from tests.worker.test_constrained import DENOISING, WORDS, NoisyNet, is_member, request, turned

SPELLINGS = index_tokens(make_vocabulary_bytes(WORDS.tokens, (WORDS.end_id,), WORDS.padding_id))
LABELS = compile_labels([["yes"], ["no"], ["perhaps"]], SPELLINGS)


class FixedNet(NoisyNet):
    """A model that returns the same noise at every pass for every row, and NaN for rows whose prompt begins with 99."""

    def denoise(self, canvas: torch.Tensor, soft: torch.Tensor, context: CanvasContext) -> torch.Tensor:
        rows, length = canvas.shape
        logits = noise(length, self.info.vocab_size).expand(rows, -1, -1).clone()
        super().denoise(canvas, soft, context)
        logits[context.layers[0].keys[:, 0, 0, 0] == 99] = float("nan")
        return logits


def noise(length: int, vocab: int) -> torch.Tensor:
    return 3 * torch.randn((length, vocab), generator=torch.Generator().manual_seed(7))


def expected(labels: Labels) -> np.ndarray:
    logprobs = noise(DENOISING.canvas_length, len(WORDS.tokens)).log_softmax(-1).double().numpy()
    return label_logprobs(labels, logprobs[: labels.positions, labels.tokens])


def test_the_likeliest_label_is_the_answer_of_the_second_step() -> None:
    """The label probabilities follow from the model's tokens on that canvas; that of the answer is the confidence."""
    loop = Loop(FixedNet(), Capacity(max_context=200))
    loop.add(request(None, labels=LABELS))
    sealed, finished = turned(loop)
    assert isinstance(sealed, BlockSealed)
    assert isinstance(finished, Finished)
    best = int(expected(LABELS).argmax())
    assert sealed.labels == pytest.approx(expected(LABELS).tolist(), abs=1e-4)
    assert sealed.ids == LABELS.answers[best]
    usage = finished.usage
    assert (finished.reason, usage.denoising_steps, usage.converged) == (FinishReason.STOP, 2, True)
    assert usage.completion_tokens == len(sealed.ids) + 1
    assert usage.confidence == pytest.approx(math.exp(sealed.labels[best]), abs=1e-6)


def test_whatever_is_sealed_is_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a single denoising step, and at a deadline that leaves time for no other."""
    clock = [0.0]
    monkeypatch.setattr("diffusion_worker.engine.loop.time.monotonic", lambda: clock[0])
    for denoising, deadline_s in ((replace(DENOISING, steps=1), None), (DENOISING, 1.5)):
        clock[0] = 0.0
        loop = Loop(FixedNet(), Capacity(max_context=200))
        loop.add(request(None, labels=LABELS, denoising=denoising, deadline_s=deadline_s))
        sealed, finished = turned(loop, clock)
        assert sealed.ids in LABELS.answers
        assert len(sealed.labels) == 3
        assert finished.usage.denoising_steps <= 2


def test_a_denoising_parameters_that_wants_no_stability_still_takes_two_passes() -> None:
    """The first step sees only noise."""
    loop = Loop(FixedNet(), Capacity(max_context=200))
    loop.add(request(None, labels=LABELS, denoising=replace(DENOISING, stability=0, confidence_threshold=100.0)))
    *_, finished = turned(loop)
    assert finished.usage.denoising_steps == 2


@pytest.mark.parametrize("is_exact", [False, True])
def test_neighbours_notice_nothing(is_exact: bool) -> None:
    """A row with labels does not depend on its neighbours either."""
    free, bound = request(None, max_tokens=40), request("a pattern", seed=1)
    few, other = (
        replace(request(None), labels=labels) for labels in (LABELS, compile_labels([["a"], ["bc"]], SPELLINGS))
    )

    def answered(*requests: GenerationRequest) -> list[list[int]]:
        loop = Loop(FixedNet(), Capacity(max_context=200, max_num_seqs=4, is_exact=is_exact))
        said: dict[int, list[int]] = {loop.add(each): [] for each in requests}
        while loop.scheduler.has_work:
            for who, event in loop.step():
                said[who] += event.ids if isinstance(event, BlockSealed) else ()
        return list(said.values())

    together = answered(free, few, bound, other)
    assert together == [*answered(free), *answered(few), *answered(bound), *answered(other)]
    assert is_member("a pattern", together[2])


def test_a_row_of_nan_faults_alone() -> None:
    """The row fails; no label is chosen from NaN."""
    good, bad = (replace(request(None), labels=LABELS, prompt_ids=prompt) for prompt in ((20, 21), (99, 21)))
    fine, faulted = run(FixedNet(), [good, bad])
    assert isinstance(fine.end, Finished)
    assert isinstance(faulted.end, Faulted)
    assert isinstance(faulted.end.error, NotFinite)
