"""Weights for decisions take part in passes that fill canvas templates, and in no others."""

import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_worker.constraints.inference.template import Probabilities
from diffusion_worker.engine.loop import Capacity, Loop
from diffusion_worker.errors import CheckpointBroken
from diffusion_worker.models.decision_weights import DECISION_WEIGHTS
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.events import BlockSealed
from diffusion_worker.types.requests import DecodingMode, GenerationRequest
from training.requests import request_for
from training.tasks.decisions import canvases_of, decision
from training.tasks.registry import TASKS
from training.tasks.sample import SampleSpec

SHIPPED = Path(__file__).parents[3] / "checkpoints" / "twolane-tiny"
CHANGED = "model.decoder.layers.3.mlp.down_proj.weight"


def folder_with(tmp_path: Path, tensors: dict[str, torch.Tensor], *, merged: bool = False) -> Path:
    """The shipped checkpoint with these weights for decisions, or for everything."""
    folder = tmp_path / ("merged" if merged else "with")
    shutil.copytree(SHIPPED, folder)
    (folder / DECISION_WEIGHTS).unlink(missing_ok=True)
    weights = folder / "model.safetensors"
    if merged:
        save_file(load_file(weights) | tensors, weights, metadata={"format": "pt"})
    elif tensors:
        save_file(tensors, folder / DECISION_WEIGHTS)
    return folder


def loaded(folder: Path) -> DiffusionModel:
    return load(folder, LoadOptions(threads=1))


def other_weights() -> dict[str, torch.Tensor]:
    return {CHANGED: load_file(SHIPPED / "model.safetensors")[CHANGED].flip(0) * 2.0}


def chats(model: DiffusionModel) -> list[GenerationRequest]:
    sample = TASKS["clean-up"](random.Random(3), SampleSpec())
    return [
        request_for(model, sample, DecodingMode.DIFFUSION),
        request_for(model, sample, DecodingMode.AUTOREGRESSIVE),
        request_for(model, sample, DecodingMode.VERIFIED),
    ]


def decisions(model: DiffusionModel) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            prompt_ids=canvas.prompt_ids,
            max_tokens=model.info.denoising.canvas_length,
            seed=0,
            denoising=replace(model.info.denoising, steps=2),
            template=canvas.template,
        )
        for canvas, _ in canvases_of(decision(random.Random(5), SampleSpec()), model.info)
    ]


def answered(model: DiffusionModel, requests: Sequence[GenerationRequest], **options: Any) -> list[Any]:
    """Per request, its ids or the probabilities of its holes, and its confidence."""
    loop = Loop(model, Capacity(max_context=1024, prefix_slots=4, **options))
    said: dict[int, list[Any]] = {loop.add(each): [] for each in requests}
    while loop.scheduler.has_work:
        for who, event in loop.step():
            if isinstance(event, BlockSealed):
                said[who].append(event.holes or event.ids)
            elif usage := getattr(event, "usage", None):
                said[who].append((usage.completion_tokens, usage.confidence))
    return list(said.values())


@pytest.mark.slow
def test_other_passes_compute_what_they_compute_without_them(tmp_path: Path) -> None:
    """To the last bit, and with the same confidence."""
    plain = loaded(folder_with(tmp_path, {}))
    assert plain.for_templates is plain
    model = loaded(folder_with(tmp_path / "own", other_weights()))
    assert answered(model, chats(model)) == answered(plain, chats(plain))


@pytest.mark.slow
def test_templates_are_filled_as_by_a_model_of_these_weights(tmp_path: Path) -> None:
    merged = loaded(folder_with(tmp_path, other_weights(), merged=True))
    model = loaded(folder_with(tmp_path, other_weights()))
    plain = loaded(SHIPPED)

    def shares(model: DiffusionModel) -> list[Probabilities]:
        return [each[0] for each in answered(model, decisions(model))]

    found = shares(model)
    assert found == shares(merged)
    assert found != shares(plain)


@pytest.mark.slow
def test_contexts_of_both_are_kept_apart_in_one_batch(tmp_path: Path) -> None:
    """The same prompt as a chat and as a decision: neither reads what the other has cached. Exact, so that rows do not
    depend on their neighbours."""
    model = loaded(folder_with(tmp_path, other_weights()))
    holes = decisions(model)
    chat = replace(holes[0], template=None, denoising=replace(model.info.denoising, steps=6))
    mixed = [chat, *holes, chat]
    alone = [answered(model, [each], is_exact=True)[0] for each in (chat, *holes)]
    together = answered(model, mixed, max_num_seqs=2, is_exact=True)
    assert [each[0] for each in together[1:-1]] == [each[0] for each in alone[1:]]
    reused = answered(model, mixed, max_num_seqs=1)
    assert reused[0] == reused[-1] == answered(model, [chat])[0]


@pytest.mark.slow
def test_both_models_share_the_weights_that_the_file_does_not_have(tmp_path: Path) -> None:
    model = load(folder_with(tmp_path, other_weights()), LoadOptions(threads=1))
    plain = loaded(SHIPPED)
    own, others = (dict(each._model.named_parameters(remove_duplicate=False)) for each in (model, model.for_templates))
    assert {id(own[name]) for name in own if own[name] is not others[name]} == {id(own[CHANGED])}
    assert model.info.has_template_weights
    assert model.info.weight_bytes == model.info.parameters * 4 + own[CHANGED].numel() * 4
    assert plain.info.parameters == model.info.parameters


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"model.decoder.layers.9.mlp.down_proj.weight": torch.zeros(2)}, "not a weight of this model"),
        ({CHANGED: torch.zeros(2, 3)}, r"wrong shape: \(2, 3\), not \(128, 448\)"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], complaint: str) -> None:
    with pytest.raises(CheckpointBroken, match=f"{DECISION_WEIGHTS}: .*{complaint}"):
        loaded(folder_with(tmp_path, tensors))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {})
    (folder / DECISION_WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(CheckpointBroken, match=DECISION_WEIGHTS):
        loaded(folder)
