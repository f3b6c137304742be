"""Fits the confidence of a checkpoint: `python -m training.gate.fit CHECKPOINT`.

Trains the prompt head, answers the mix for choosing in both decoding modes, and fits a logistic model for each. Writes
`prompt_head.safetensors` and the key `twolane_confidence` of config.json into the folder. Uses one thread.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file

from diffusion_worker.models.checkpoint_source import CONFIG
from diffusion_worker.models.confidence import CONFIDENCE_KEY, PROMPT_HEAD
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.confidence import MEASUREMENTS, ConfidenceWeights
from diffusion_worker.types.requests import DecodingMode
from training.gate.measure import Answered, answered
from training.gate.mix import CHOOSING
from training.gate.prompt_head import PROMPTS, hidden_states, train_head, training_prompts

PENALTY: Final = 1e-3  # of squared weights of standardised measurements, per answer
DIGITS: Final = 4
_ROUNDS: Final = 20_000
_RATE: Final = 0.3
# Weights under which the worker measures the surprise of prompts while the real ones are not known yet.
_PROVISIONAL: Final = ConfidenceWeights(intercept=0.0, weights={"prompt_surprise": -1.0})


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of the checkpoint")
    parser.add_argument("--count", type=int, default=300, help="rows of each third of the mix")
    parser.add_argument("--keep-head", action="store_true", help="keep the prompt head that the folder has")
    parser.add_argument(
        "--answers", type=Path, metavar="FILE", help="also write the measurements of all answers to FILE"
    )
    options = parser.parse_args()
    folder: Path = options.checkpoint
    if not options.keep_head:
        model = load(folder, LoadOptions(threads=1))
        save_file(train_head(*hidden_states(model, training_prompts(PROMPTS))), folder / PROMPT_HEAD)
    model = load(folder, LoadOptions(threads=1))
    model.info = replace(model.info, confidence=dict.fromkeys(DecodingMode, _PROVISIONAL))
    rows = CHOOSING.rows(options.count)
    found = {mode: answered(model, rows, mode) for mode in DecodingMode if mode is not DecodingMode.VERIFIED}
    if options.answers:
        options.answers.write_text(json.dumps({mode: [_plain(each) for each in found[mode]] for mode in found}) + "\n")
    write_weights(folder, {mode: fit(answers) for mode, answers in found.items()})
    return 0


def fit(answers: Sequence[Answered]) -> ConfidenceWeights:
    """Logistic regression without positive weights, by projected gradient descent on standardised measurements.
    Measurements that do not vary, or do not help, get no weight."""
    measured = np.array([astuple(each.evidence) for each in answers])  # [answers, measurements]
    right = np.array([float(each.is_right) for each in answers])
    scale = measured.std(axis=0)
    varies = scale > 0.0
    inputs = np.where(varies, measured, 0.0) / np.where(varies, scale, 1.0)
    weights, intercept = _descend(inputs, right)
    chosen = {
        name: round(float(weight / spread), DIGITS)
        for name, weight, spread in zip(MEASUREMENTS, weights, scale, strict=True)
        if spread > 0.0 and weight < 0.0
    }
    return ConfidenceWeights(intercept=round(intercept, DIGITS), weights=chosen)


def _descend(inputs: NDArray[np.float64], right: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    weights, intercept = np.zeros(inputs.shape[1]), 0.0
    for _ in range(_ROUNDS):
        error = 1.0 / (1.0 + np.exp(-(inputs @ weights + intercept))) - right
        weights = np.minimum(0.0, weights - _RATE * (inputs.T @ error / len(right) + PENALTY * weights))
        intercept -= _RATE * float(error.mean())
    return weights, intercept


def write_weights(folder: Path, weights: Mapping[DecodingMode, ConfidenceWeights]) -> None:
    """Set the key in config.json; everything else stays."""
    file = folder / CONFIG
    config = json.loads(file.read_text(encoding="utf-8"))
    config[CONFIDENCE_KEY] = {
        mode.value: {"intercept": each.intercept, "weights": dict(each.weights)} for mode, each in weights.items()
    }
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _plain(answer: Answered) -> dict[str, object]:
    row = answer.row
    return {
        "prompt": row.prompt,
        "third": row.third,
        "family": row.family,
        "answer": row.answer,
        "text": answer.text,
        "right": answer.is_right,
        "steps": answer.denoising_steps,
        "evidence": astuple(answer.evidence),
    }


if __name__ == "__main__":
    sys.exit(main())
