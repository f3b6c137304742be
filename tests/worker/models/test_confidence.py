"""What a checkpoint declares about its confidence is read completely, or the checkpoint is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from diffusion_worker.errors import CheckpointBroken
from diffusion_worker.models.confidence import CONFIDENCE_KEY, PROMPT_HEAD, read_confidence, read_prompt_head
from diffusion_worker.types.confidence import ConfidenceWeights
from diffusion_worker.types.requests import DecodingMode

SHIPPED = Path(__file__).parents[3] / "checkpoints" / "twolane-tiny"
CPU = torch.device("cpu")
GOOD = {"intercept": 1, "weights": {"steps": -2}}


def tensors(hidden: int = 4, inner: int = 3, vocab: int = 6) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    shapes = {"up.weight": (inner, hidden), "up.bias": (inner,), "down.weight": (vocab, inner), "down.bias": (vocab,)}
    return {name: torch.randn(shape, generator=draw).half() for name, shape in shapes.items()}


def test_weights_are_read_by_decoding_mode() -> None:
    found = read_confidence(SHIPPED, {CONFIDENCE_KEY: {"autoregressive": GOOD}})
    assert found == {DecodingMode.AUTOREGRESSIVE: ConfidenceWeights(intercept=1.0, weights={"steps": -2.0})}
    assert read_confidence(SHIPPED, {}) == {}


@pytest.mark.parametrize(
    "declared",
    [
        [],
        {"beam": GOOD},
        {"diffusion": {"weights": {}}},
        {"diffusion": {"intercept": "much", "weights": {}}},
        {"diffusion": {"intercept": 1, "weights": []}},
        {"diffusion": {"intercept": 1, "weights": {"steps": 1}}},
        {"diffusion": {"intercept": 1, "weights": {"luck": -1}}},
        {"diffusion": None},
    ],
)
def test_weights_that_make_no_sense_are_refused_with_the_file_and_the_key(declared: Any) -> None:
    with pytest.raises(CheckpointBroken, match=rf"config\.json: {CONFIDENCE_KEY}: "):
        read_confidence(SHIPPED, {CONFIDENCE_KEY: declared})


def test_a_prompt_head_has_one_hidden_layer(tmp_path: Path) -> None:
    given = tensors()
    save_file(given, tmp_path / PROMPT_HEAD)
    head = read_prompt_head(tmp_path, hidden_size=4, vocab_size=6, device=CPU)
    assert head is not None
    hidden = torch.randn(2, 5, 4)
    up, up_bias, down, down_bias = (each.float() for each in given.values())
    inner = torch.nn.functional.gelu(hidden @ up.T + up_bias)
    torch.testing.assert_close(head(hidden), inner @ down.T + down_bias)


def test_a_folder_without_a_prompt_head_has_none(tmp_path: Path) -> None:
    assert read_prompt_head(tmp_path, hidden_size=4, vocab_size=6, device=CPU) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b"no tensors"),
        lambda file: save_file(tensors(hidden=5), file),
        lambda file: save_file(tensors(vocab=7), file),
        lambda file: save_file({name: each for name, each in tensors().items() if name != "down.bias"}, file),
    ],
)
def test_a_damaged_or_foreign_prompt_head_is_refused(tmp_path: Path, damage: Any) -> None:
    damage(tmp_path / PROMPT_HEAD)
    with pytest.raises(CheckpointBroken, match=PROMPT_HEAD):
        read_prompt_head(tmp_path, hidden_size=4, vocab_size=6, device=CPU)


def test_the_shipped_checkpoint_declares_modes_for_all_answers_and_reads_its_prompts() -> None:
    """Verified answers are those of autoregressive decoding and share its weights."""
    found = read_confidence(SHIPPED, json.loads((SHIPPED / "config.json").read_text()))
    assert set(found) == set(DecodingMode) - {DecodingMode.VERIFIED}
    assert all(weights.reads_prompts for weights in found.values())
