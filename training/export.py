"""Exports a trained model as a checkpoint folder: config, generation config, weights and tokenizer."""

from pathlib import Path
from typing import Any

from training.model import generation_config
from training.vocabulary import save_tokenizer

DENOISING_STEPS = 24


def export(model: Any, folder: Path) -> None:
    """Write `model` to `folder` (fp32 safetensors). The model card (README.md) is written by hand and not touched."""
    folder.mkdir(parents=True, exist_ok=True)
    trained_with = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    model.save_pretrained(folder)
    model.set_attn_implementation(trained_with)
    generation_config(DENOISING_STEPS).save_pretrained(folder)
    save_tokenizer(folder)
