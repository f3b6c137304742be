"""Batches and losses of the training run."""

import random
from typing import Any

import pytest
import torch
from transformers.models.diffusion_gemma import modeling_diffusion_gemma as modeling

from training.batches import Batch, make_batch
from training.model import CANVAS_LENGTH, build_model, speed_up_training
from training.objective import Unroll, losses
from training.tasks.sample import Sample
from training.vocabulary import EOS, PAD, decode_ids, encode_prompt

SHORT = Sample(prompt="ab", answer="cd")
LONG = Sample(prompt="a longer prompt", answer="x" * 100)


def noise() -> torch.Generator:
    """A fresh stream of the same noise."""
    return torch.Generator().manual_seed(2)


def batch_of(*samples: Sample) -> Batch:
    """A batch from a fixed seed."""
    return make_batch(list(samples), random.Random(1), torch.Generator().manual_seed(1))


TWO_PASS = Unroll(temperatures=(0.6,))
LIBRARY_EXPERTS = modeling.DiffusionGemmaTextExperts.forward


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model in evaluation mode with the training shortcuts, taken back afterwards."""
    monkeypatch.setattr(modeling.DiffusionGemmaTextExperts, "forward", LIBRARY_EXPERTS)
    model = build_model(0).eval()
    speed_up_training(model)
    return model


def test_a_canvas_holds_the_answer_its_end_and_padding() -> None:
    """The clean canvas is the one that the worker should seal."""
    batch = batch_of(SHORT)
    ids = batch.clean[0].tolist()
    assert decode_ids(ids) == "cd"
    assert ids[2] == EOS
    assert set(ids[3:]) == {PAD}
    assert batch.context.tolist() == [len(encode_prompt("ab"))]


def test_a_long_answer_is_cut_into_blocks_and_the_context_counts_the_sealed_ones() -> None:
    """100 bytes and the end token need two canvases of 64."""
    contexts = {
        int(make_batch([LONG], random.Random(i), torch.Generator().manual_seed(i)).context[0]) for i in range(20)
    }
    first = len(encode_prompt(LONG.prompt))
    assert contexts == {first, first + CANVAS_LENGTH}


def test_padding_of_a_longer_neighbour_changes_nothing(model: Any) -> None:
    """Masks hide the padding, so a row's logits do not depend on the batch it is in."""
    alone = batch_of(SHORT)
    beside = batch_of(SHORT, LONG)
    beside = Batch(
        sequence=beside.sequence[:1],
        is_answer=beside.is_answer[:1],
        context=beside.context[:1],
        clean=alone.clean,
        noisy=alone.noisy,
        weight=alone.weight,
    )
    with torch.no_grad():
        one, other = losses(model, alone, TWO_PASS, noise()), losses(model, beside, TWO_PASS, noise())
    assert torch.isclose(one.denoising, other.denoising, atol=1e-5)
    assert torch.isclose(one.autoregressive, other.autoregressive, atol=1e-5)


def test_the_training_shortcuts_do_not_change_the_model(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written-out attention and the dispatch-free expert give the library's hidden states."""
    ids = torch.randint(16, 272, (2, 20), generator=torch.Generator().manual_seed(3))
    causal = torch.ones(20, 20, dtype=torch.bool).tril()[None, None]
    masks = {"full_attention": causal, "sliding_attention": causal}
    with torch.no_grad():
        quick = model.model.encoder(input_ids=ids, attention_mask=masks).last_hidden_state
        monkeypatch.setattr(modeling.DiffusionGemmaTextExperts, "forward", LIBRARY_EXPERTS)
        slow = build_model(0).eval().model.encoder(input_ids=ids).last_hidden_state
    assert torch.allclose(quick, slow, atol=1e-4)


def test_a_unrolling_changes_what_the_model_is_asked_to_mend(model: Any) -> None:
    """After unrolled steps the loss is taken on another canvas, still of the same answer, and still has a gradient."""
    batch = batch_of(SHORT, LONG)
    unrolled = losses(model, batch, Unroll(temperatures=(0.8, 0.6), renoises=True), noise())
    plain = losses(model, batch, Unroll(temperatures=(0.8, 0.6)), noise())
    assert unrolled.denoising != plain.denoising
    assert unrolled.autoregressive == plain.autoregressive
    assert unrolled.denoising.requires_grad
