"""Converts samples to training batches: right-padded sequences, and one canvas of the answer per row.

Positions start at 0 in every row and masks hide the padding, so that a row sees the same as in serving.
"""

import random
from dataclasses import dataclass

import torch

from training.model import CANVAS_LENGTH
from training.tasks.sample import Sample
from training.vocabulary import EOS, PAD, VOCAB_SIZE, encode_prompt, encode_text

WARM_SHARE = 0.25  # share of the samples with a source text whose canvas starts from it
FULL_NOISE_SHARE = 0.25
LIGHT_NOISE = 0.3  # maximum noise level of anchored canvases
TAIL_WEIGHT = 0.1  # loss weight of padding after the end token


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One training batch of one task."""

    sequence: torch.Tensor  # [rows, length] prompt + answer + end token, right-padded
    is_answer: torch.Tensor  # [rows, length] bool, positions of the autoregressive loss
    context: torch.Tensor  # [rows] tokens before the canvas
    clean: torch.Tensor  # [rows, canvas] target ids
    noisy: torch.Tensor  # [rows, canvas] corrupted ids
    weight: torch.Tensor  # [rows, canvas] loss weights


def make_batch(
    samples: list[Sample], rng: random.Random, generator: torch.Generator, *, is_anchored: bool = False
) -> Batch:
    """Encode `samples`; choose one canvas of each answer at random and corrupt it.

    The noise level is uniform in [0, 1], or 1 for a quarter of the rows; a corrupted position holds a uniform token of
    the vocabulary. A quarter of the edits start from their source text instead of their answer; with `is_anchored` all
    do, and half of the rows have no noise, the others a level of up to LIGHT_NOISE.
    """
    prompts = [encode_prompt(s.prompt) for s in samples]
    answers = [[*encode_text(s.answer), EOS] for s in samples]
    blocks = [rng.randrange(-(-len(a) // CANVAS_LENGTH)) for a in answers]
    clean = torch.tensor([_block(a, b) for a, b in zip(answers, blocks, strict=True)])
    warm_share = 1.0 if is_anchored else WARM_SHARE
    start = torch.tensor(
        [
            _block([*encode_text(s.source), EOS], b) if s.source and rng.random() < warm_share else row
            for s, b, row in zip(samples, blocks, clean.tolist(), strict=True)
        ]
    )
    length = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    sequence = torch.tensor([_padded(p + a, length) for p, a in zip(prompts, answers, strict=True)])
    places = torch.arange(length)[None]
    first = torch.tensor([len(p) for p in prompts])[:, None]
    last = torch.tensor([len(p) + len(a) for p, a in zip(prompts, answers, strict=True)])[:, None]
    return Batch(
        sequence=sequence,
        is_answer=(places >= first) & (places < last),
        context=torch.tensor([len(p) + b * CANVAS_LENGTH for p, b in zip(prompts, blocks, strict=True)]),
        clean=clean,
        noisy=_corrupted(start, (_light_levels if is_anchored else _levels)(len(samples), generator), generator),
        weight=torch.where(clean == PAD, TAIL_WEIGHT, 1.0),
    )


def _levels(rows: int, generator: torch.Generator) -> torch.Tensor:
    level = torch.rand(rows, 1, generator=generator)
    return torch.where(torch.rand(rows, 1, generator=generator) < FULL_NOISE_SHARE, torch.ones_like(level), level)


def _light_levels(rows: int, generator: torch.Generator) -> torch.Tensor:
    level = LIGHT_NOISE * torch.rand(rows, 1, generator=generator)
    return torch.where(torch.rand(rows, 1, generator=generator) < 0.5, torch.zeros_like(level), level)


def _corrupted(start: torch.Tensor, level: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randint(VOCAB_SIZE, start.shape, generator=generator)
    return torch.where(torch.rand(start.shape, generator=generator) < level, noise, start)


def _block(answer: list[int], block: int) -> list[int]:
    return _padded(answer[block * CANVAS_LENGTH : (block + 1) * CANVAS_LENGTH], CANVAS_LENGTH)


def _padded(ids: list[int], length: int) -> list[int]:
    return ids + [PAD] * (length - len(ids))
