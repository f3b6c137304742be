"""Trains the prompt head: the checkpoint's hidden states of the causal pass predict the next token of a prompt.

Only prompts of the trained tasks are shown to it, so a prompt that it finds unlikely is one that the checkpoint was not
trained on. The checkpoint itself stays as it is: its hidden states are computed once.
"""

import random
from collections.abc import Sequence
from typing import Final

import torch
from torch import nn
from torch.nn import functional as nnf

from diffusion_worker.denoise.autoregressive import padded
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.models.interface import DiffusionModel
from training.tasks.registry import TASKS
from training.tasks.sample import SampleSpec
from training.vocabulary import VOCAB_SIZE, encode_prompt

TASK_NAMES: Final = ("extraction", "clean-up", "sudoku")
PROMPTS: Final = 6000
WIDTH: Final = 256  # of the hidden layer
EPOCHS: Final = 8
BATCH: Final = 2048  # tokens
PEAK_RATE: Final = 3e-3
_TOGETHER: Final = 64  # prompts of one pass


def training_prompts(count: int) -> list[str]:
    """Prompts of the training split, as many of each task, with known, mixed and invented words."""
    prompts = []
    for number in range(count):
        rng = random.Random(f"prompt head/{number}")
        spec = SampleSpec(split="train", invented=rng.choice((0.0, 0.5, 1.0)))
        prompts.append(TASKS[TASK_NAMES[number % len(TASK_NAMES)]](rng, spec).prompt)
    return prompts


@torch.inference_mode()
def hidden_states(model: DiffusionModel, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """(hidden states [tokens, hidden], the token that follows each [tokens]) of all prompts."""
    states, following = [], []
    ordered = sorted((tuple(encode_prompt(prompt)) for prompt in prompts), key=len)
    for first in range(0, len(ordered), _TOGETHER):
        rows = ordered[first : first + _TOGETHER]
        cache = KvCache(
            model.kv_layers, slots=len(rows), slot_tokens=len(rows[-1]), dtype=model.dtype, device=model.device
        )
        view = cache.prefill_view(range(len(rows)), [0] * len(rows), [len(row) for row in rows])
        hidden = model.encode(padded(rows, model.device), view)
        states += [hidden[row, : len(ids) - 1] for row, ids in enumerate(rows)]
        following += [torch.tensor(ids[1:]) for ids in rows]
    return torch.cat(states).clone(), torch.cat(following)


def train_head(hidden: torch.Tensor, following: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors of `diffusion_worker.models.confidence.PromptHead`, in half precision. Inputs are standardised while
    training; the first layer absorbs that."""
    torch.manual_seed(0)
    mean, scale = hidden.mean(0), hidden.std(0) + 1e-5
    up, down = nn.Linear(hidden.shape[1], WIDTH), nn.Linear(WIDTH, VOCAB_SIZE)
    optimizer = torch.optim.AdamW([*up.parameters(), *down.parameters()], lr=PEAK_RATE, weight_decay=0.0)
    steps = EPOCHS * len(hidden) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(hidden), (BATCH,))
        logits = down(nnf.gelu(up((hidden[chosen] - mean) / scale)))
        optimizer.zero_grad()
        nnf.cross_entropy(logits, following[chosen]).backward()
        optimizer.step()
        schedule.step()
    weight = up.weight / scale
    tensors = {
        "up.weight": weight,
        "up.bias": up.bias - weight @ mean,
        "down.weight": down.weight,
        "down.bias": down.bias,
    }
    return {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}
