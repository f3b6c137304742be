"""Fitting and measuring the confidence of a checkpoint."""

import json
import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from diffusion_worker.models.confidence import PromptHead, read_confidence
from diffusion_worker.types.confidence import ConfidenceWeights, Evidence
from diffusion_worker.types.requests import DecodingMode
from training.gate import prompt_head, report
from training.gate.fit import fit, write_weights
from training.gate.measure import Answered, Figures, Rejected, by_part, figures
from training.gate.prompt_head import train_head, training_prompts
from training.gate.rows import Row, Third
from training.tasks.registry import TASKS
from training.tasks.sample import Sample, SampleSpec
from training.vocabulary import VOCAB_SIZE


def answer(
    *, right: bool, confidence: float = 0.9, third: Third = Third.TRAINED, text: str = "yes", **evidence: float
) -> Answered:
    row = Row(prompt="p", answer=text if right else "no", third=third, family=str(third))
    return Answered(row=row, text=text, confidence=confidence, evidence=Evidence(**evidence), denoising_steps=1)


def test_a_measurement_that_tells_right_from_wrong_gets_a_weight_and_the_others_hardly_any() -> None:
    draw = np.random.default_rng(1)
    answers = [
        answer(right=right, prompt_surprise=float(draw.normal(3 if right else 9)), entropy=float(draw.uniform()))
        for right in [True, False] * 200
    ]
    weights = fit(answers)
    assert weights.weights["prompt_surprise"] < -0.5
    assert abs(weights.weights.get("entropy", 0.0)) < 1.0
    assert "unconverged" not in weights.weights  # it never varied
    assert weights.confidence(Evidence(prompt_surprise=3.0)) > 0.9
    assert weights.confidence(Evidence(prompt_surprise=9.0)) < 0.1


def test_a_measurement_that_is_larger_for_right_answers_gets_no_weight() -> None:
    draw = np.random.default_rng(1)
    answers = [answer(right=right, steps=float(draw.normal(5 if right else 2))) for right in [True, False] * 100]
    assert fit(answers).weights == {}


def test_weights_are_written_as_they_are_read_and_the_rest_of_the_config_stays(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "diffusion_gemma", "canvas_length": 64}')
    weights = {mode: ConfidenceWeights(intercept=1.5, weights={"steps": -2.25}) for mode in DecodingMode}
    write_weights(tmp_path, weights)
    config = json.loads((tmp_path / "config.json").read_text())
    assert read_confidence(tmp_path, config) == weights
    assert config["canvas_length"] == 64


def test_figures_count_what_the_gate_serves() -> None:
    answers = [
        answer(right=True),
        answer(right=True, confidence=0.79),
        answer(right=False),
        answer(right=False, confidence=0.1),
        answer(right=False, text=" "),  # blank: never served
    ]
    found = figures("all", answers)
    assert (found.precision_without, found.precision, found.recall) == (2 / 5, 1 / 2, 1 / 2)
    assert not found.is_cleared
    assert figures("none", []).precision == 1.0


def test_the_report_has_a_line_for_each_third_and_each_family() -> None:
    answers = [answer(right=True), answer(right=False, third=Third.NEAR)]
    names = [part.name.strip() for part in by_part(answers)]
    assert names == ["all", *("trained tasks",) * 2, *("near strangers",) * 2, "far strangers"]


@pytest.mark.parametrize(
    ("change", "tokens", "code"),
    [
        ({}, 63, 0),
        ({}, 64, 1),  # an answer that the gate rejects had filled its first canvas
        ({"served": 120}, 63, 1),  # precision
        ({"right_served": 89, "served": 90}, 63, 1),  # recall
        ({"answers": 150}, 63, 1),  # most answers are right without a gate
    ],
)
def test_the_check_fails_if_a_decoding_mode_misses_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: dict[str, int], tokens: int, code: int
) -> None:
    good = Figures(name="all", answers=300, right=100, served=100, right_served=98)
    measured = {
        DecodingMode.DIFFUSION: (good, 63),
        DecodingMode.VERIFIED: (replace(good, **change), tokens),  # type: ignore[arg-type]
        DecodingMode.AUTOREGRESSIVE: (good, 63),
    }

    def measure(_model: object, _rows: object, mode: DecodingMode) -> tuple[list[Figures], list[Rejected]]:
        found, ended = measured[mode]
        return [found], [Rejected(passes=1, tokens=ended)]

    monkeypatch.setattr(report, "_measure", measure)
    model: Any = SimpleNamespace(info=SimpleNamespace(denoising=SimpleNamespace(canvas_length=64)))
    assert report.evaluate_gate(model, 1, json_file=None, is_checked=True) == code
    printed = capsys.readouterr().out
    assert all(f"at least 0.8, {mode}" in printed for mode in DecodingMode)
    assert report.evaluate_gate(model, 1, json_file=None, is_checked=False) == 0


@pytest.mark.slow
def test_a_trained_prompt_head_finds_the_token_that_followed_likely() -> None:
    """From hidden states that tell the next token. The scale of the input does not matter."""
    draw = torch.Generator().manual_seed(1)
    following = torch.randint(20, 30, (24_000,), generator=draw)
    hidden = 50.0 * torch.nn.functional.one_hot(following - 20, 16).float() + torch.randn(24_000, 16, generator=draw)
    head = PromptHead(train_head(hidden, following), torch.device("cpu"))
    logits = head(hidden)
    assert logits.shape == (24_000, VOCAB_SIZE)
    assert (logits.argmax(-1) == following).float().mean() > 0.95


def test_the_prompt_head_is_trained_on_the_training_split_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    splits: list[str] = []

    def recorded(rng: random.Random, spec: SampleSpec, task: str) -> Sample:
        splits.append(spec.split)
        return TASKS[task](rng, spec)

    monkeypatch.setattr(prompt_head, "TASKS", {task: partial(recorded, task=task) for task in TASKS})
    prompts = training_prompts(60)
    assert splits == ["train"] * 60
    assert len(set(prompts)) > 50
    assert prompts == training_prompts(60)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_shipped_checkpoint_clears_the_bars_of_the_gate(capsys: pytest.CaptureFixture[str]) -> None:
    """Precision at least 95 % with at least 90 % of the correct answers kept, in every mode, on strangers that nothing
    was chosen on; a hopeless answer ends within its first canvas."""
    from diffusion_worker.models.loader import LoadOptions, load

    model = load(Path(__file__).parents[3] / "checkpoints" / "twolane-tiny", LoadOptions(threads=1))
    assert report.evaluate_gate(model, 30, json_file=None, is_checked=True) == 0, capsys.readouterr().out
