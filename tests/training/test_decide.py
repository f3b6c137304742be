"""Training on decisions: what a batch asks of the model, and that the worker computes the same."""

import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffusion_worker.constraints.inference.template import FREE
from diffusion_worker.models.decision_weights import DECISION_WEIGHTS
from diffusion_worker.models.interface import FULL, SLIDING
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.model_info import ModelInfo
from training.decide import FEW_STEPS, DecisionRun, question_count
from training.decision_batches import UNDECIDING_WEIGHT, DecisionBatch, decision_batch
from training.decision_objective import _canvas_masks, _causal, decision_losses
from training.model import build_model, speed_up_training
from training.tasks.decisions import QUESTIONS, question_set
from training.vocabulary import EOS, PAD

CHECKPOINT = "checkpoints/twolane-tiny"


@cache
def info() -> ModelInfo:
    return load(CHECKPOINT, LoadOptions(threads=1)).info


def batch(seed: int = 1, *, rows: int = 2, questions: int = QUESTIONS, is_read: bool = True) -> DecisionBatch:
    generator = torch.Generator().manual_seed(seed)
    rng = random.Random(seed)
    return decision_batch(rng, generator, info(), question_set(rng, questions), rows=rows, is_read=is_read)


def test_every_question_is_decided_once_on_the_canvases_and_at_least_once_left_to_right() -> None:
    for seed in range(6):
        found = batch(seed)
        for row in range(2):
            canvases = found.row == row
            assert (found.first_weight[canvases] == 1.0).sum() == QUESTIONS
            assert (found.answer_weight[row] == 1.0).sum() >= QUESTIONS
        assert torch.isin(found.answer_weight.unique(), torch.tensor([0.0, UNDECIDING_WEIGHT, 1.0])).all()


def test_the_second_pass_knows_what_the_first_one_decides() -> None:
    """Where one pass is enough, nothing is left to learn from a second."""
    for seed in range(6):
        found = batch(seed)
        decided_first = (found.first_weight == 1.0) & (found.second_weight.amax(-1, keepdim=True) > 0.0)
        assert torch.equal(found.second[decided_first], found.clean[decided_first])
        assert (found.second_weight[decided_first] == 0.0).all()
        given = found.first_weight == 0.0
        assert torch.equal(found.first[given], found.clean[given])


def test_the_prompts_of_a_batch_begin_alike_and_end_before_the_answers() -> None:
    found = batch(3, rows=3)
    for row, context in zip(found.row.tolist(), found.context.tolist(), strict=True):
        first = int(found.answer_weight[row].nonzero()[0])
        assert found.prefix.shape[1] + first == context
        last = int(found.answer_weight[row].nonzero()[-1])
        assert found.rest[row, last] == EOS
        assert (found.rest[row, last + 1 :] == PAD).all()


@pytest.mark.slow
def test_an_encoded_beginning_that_rows_share_changes_no_loss() -> None:
    net = build_model(7)
    speed_up_training(net)
    found = batch(2)
    moved = found.prefix[0, 2:].expand(2, -1)
    whole = replace(
        found,
        prefix=found.prefix[:, :2],
        rest=torch.cat([moved, found.rest], 1),
        answer_weight=torch.cat([torch.zeros(moved.shape), found.answer_weight], 1),
    )
    assert found.prefix.shape[1] > net.config.text_config.sliding_window, "beyond the window of some layers"
    with torch.no_grad():
        for is_second in (False, True):
            once, twice = (decision_losses(net, each, is_second=is_second) for each in (found, whole))
            torch.testing.assert_close(once.canvas, twice.canvas)
            torch.testing.assert_close(once.left_to_right, twice.left_to_right)


def test_layers_with_a_window_see_the_last_tokens_only() -> None:
    causal = _causal(3, 2, window=3)
    assert causal[FULL][0, 0].int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert causal[SLIDING][0, 0].int().tolist() == [[1, 1, 1, 0], [0, 1, 1, 1]]
    canvas = _canvas_masks(torch.tensor([4, 2]), cached=5, window=3, canvas=1)
    assert canvas[FULL][:, 0, 0].int().tolist() == [[1, 1, 1, 1, 0, 1], [1, 1, 0, 0, 0, 1]]
    assert canvas[SLIDING][:, 0, 0].int().tolist() == [[0, 0, 1, 1, 0, 1], [1, 1, 0, 0, 0, 1]]


def test_the_number_of_questions_grows_to_that_of_the_benchmark() -> None:
    counts = {step: [question_count(random.Random(seed), step) for seed in range(200)] for step in (0, 60, FEW_STEPS)}
    late = counts[FEW_STEPS]
    assert set(counts[0]) == {1}
    assert max(counts[60]) == 3
    assert max(late) == QUESTIONS
    assert late.count(QUESTIONS) > 140


def test_a_batch_without_json_answers_learns_canvases_only() -> None:
    net = build_model(7)
    speed_up_training(net)
    found = batch(5, is_read=False)
    assert found.prefix.shape[1] + found.rest.shape[1] == found.context.max()
    losses = decision_losses(net, found, is_second=False)
    assert losses.left_to_right == 0.0
    (losses.canvas + losses.left_to_right).backward()


def test_free_positions_get_noise() -> None:
    found = batch(4)
    assert (found.first != FREE).all()
    assert (found.first != found.clean).float().mean() > 0.2


@pytest.mark.slow
def test_learned_weights_are_continued_and_written_as_they_were_read(tmp_path: Path) -> None:
    shipped = Path(CHECKPOINT) / DECISION_WEIGHTS
    DecisionRun(seed=1, steps=1, out=tmp_path, start=CHECKPOINT, weights=shipped)._export()
    learned, written = load_file(shipped), load_file(tmp_path / DECISION_WEIGHTS)
    assert learned.keys() == written.keys()
    assert all(torch.equal(learned[name], written[name]) for name in learned)


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = DecisionRun(seed=5, steps=2, out=tmp_path / "whole", start=CHECKPOINT)
    whole.train()
    first = DecisionRun(seed=5, steps=2, out=tmp_path / "cut", start=CHECKPOINT)
    first._one_step()
    first.step = 1
    first.save()
    second = DecisionRun(seed=5, steps=2, out=tmp_path / "cut", start=CHECKPOINT)
    second.resume()
    assert second.step == 1
    second.train()
    for (name, a), b in zip(whole.model.state_dict().items(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
