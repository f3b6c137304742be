"""Fits the task model: softmax regression over hashed features, with attention over the units of a request.

Minimises cross-entropy by Adam over shuffled batches, in one thread: the same weights for the same seed on the same
machine. Temperature after Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gateway.classifier.features import HASHED_ROWS, REQUEST_FLAGS, UNIT_FLAGS, Features, features
from gateway.classifier.tokens import FIRST_WORD, Vocabulary
from gateway.enums import Task
from training.classifier.compose import Request

_TASKS = list(Task)
_BATCH = int(os.environ.get('BATCH', 256))
_DROPPED = float(os.environ.get("DROP", 0.1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Features of requests as rows of one table, by unit; `targets` [requests, tasks] are soft labels."""

    rows: list[np.ndarray]  # of every request: rows of all units
    weights: list[np.ndarray]
    sizes: list[np.ndarray]  # rows of each unit
    request: list[np.ndarray]
    targets: Tensor
    table_rows: int


def row_count(vocabulary: Vocabulary) -> int:
    """Rows of the table: tokens, hashed rows, flags of units, flags of requests."""
    return len(vocabulary.names) + HASHED_ROWS + UNIT_FLAGS + REQUEST_FLAGS


def unit_weights(sizes: np.ndarray) -> np.ndarray:
    return 1.0 / np.sqrt(sizes)


def dataset(vocabulary: Vocabulary, requests: Sequence[Request], *, rng: np.random.Generator | None = None) -> Dataset:
    """Features of all requests; with `rng`, some words are replaced by their stems, as unknown words are."""
    chains = [np.array([number, *vocabulary.stems(number)]) for number in range(len(vocabulary.names))]
    first = len(vocabulary.names)
    rows, weights, sizes, flags = [], [], [], []
    for each in requests:
        found = features(vocabulary, system=each.system, user=each.user, earlier=each.earlier, answer=each.answer)
        one = _rows(found, chains, first, rng)
        rows.append(one[0]), weights.append(one[1]), sizes.append(one[2])
        flags.append(np.array(found.request) + first + HASHED_ROWS + UNIT_FLAGS)
    targets = torch.zeros(len(requests), len(_TASKS))
    for at, each in enumerate(requests):
        also = each.line.also_ok
        targets[at, _TASKS.index(each.line.task)] = 0.7 if also else 1.0
        for task in also:
            targets[at, _TASKS.index(task)] = 0.3 / len(also)
    return Dataset(rows=rows, weights=weights, sizes=sizes, request=flags, targets=targets, table_rows=row_count(vocabulary))


def _rows(found: Features, chains: list[np.ndarray], first: int, rng: np.random.Generator | None):
    lasts = np.append(found.firsts[1:], found.ids.size)
    counts = lasts - found.firsts
    weight = 1.0 / np.sqrt(counts)
    unit = np.repeat(np.arange(counts.size), counts)
    own = [chains[number] for number in found.ids]
    if rng is not None and _DROPPED:
        own = [chain[1:] if chain.size > 1 and rng.random() < _DROPPED else chain for chain in own]
    own_unit = np.repeat(unit, [chain.size for chain in own])
    rows = np.concatenate([*own, *(found.hashed + first), *(found.flags + first + HASHED_ROWS)])
    units = np.concatenate([own_unit, unit, unit, unit, np.arange(counts.size), np.arange(counts.size)])
    weights = np.concatenate([weight[own_unit], np.tile(weight[unit], 3), np.full(2 * counts.size, 0.5)])
    order = np.argsort(units, kind="stable")
    return rows[order].astype(np.int32), weights[order].astype(np.float32), np.bincount(units, minlength=counts.size)


class Model(nn.Module):
    """The score of a task: the weighted sum of the active rows; units are weighed by a softmax of the last column."""

    def __init__(self, table_rows: int) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(table_rows, len(_TASKS) + 1, mode="sum", sparse=False)
        nn.init.zeros_(self.table.weight)

    def forward(self, data: Dataset, chosen: Sequence[int]) -> Tensor:
        rows = torch.from_numpy(np.concatenate([data.rows[i] for i in chosen]))
        weights = torch.from_numpy(np.concatenate([data.weights[i] for i in chosen]))
        sizes = np.concatenate([data.sizes[i] for i in chosen])
        offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32))
        unit = self.table(rows, offsets, weights)
        owner = torch.from_numpy(np.repeat(np.arange(len(chosen)), [data.sizes[i].size for i in chosen]))
        gates = unit[:, -1]
        top = torch.full((len(chosen),), -1e9).scatter_reduce(0, owner, gates, "amax").detach()
        share = (gates - top[owner]).exp()
        total = torch.zeros(len(chosen)).index_add(0, owner, share)
        share = share / total[owner]
        if os.environ.get('NOATT'):
            share = torch.ones_like(share) / torch.zeros(len(chosen)).index_add(0, owner, torch.ones_like(share))[owner] ** 0.5
        asked = torch.zeros(len(chosen), len(_TASKS)).index_add(0, owner, unit[:, :-1] * share[:, None])
        flags = torch.from_numpy(np.concatenate([data.request[i] for i in chosen]).astype(np.int32))
        flag_sizes = np.array([data.request[i].size for i in chosen])
        starts = torch.from_numpy(np.concatenate([[0], np.cumsum(flag_sizes)[:-1]]).astype(np.int32))
        return asked + self.table(flags, starts, torch.full((flags.numel(),), 0.5))[:, :-1]


def fit(data: Dataset, *, seed: int, epochs: int, rate: float = 0.02, decay: float = 0.01) -> Model:
    """Fit the table."""
    generator = torch.Generator().manual_seed(seed)
    model = Model(data.table_rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    count = len(data.rows)
    total = epochs * -(-count // _BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=total)
    for _ in range(epochs):
        for chosen in torch.randperm(count, generator=generator).split(_BATCH):
            loss = F.cross_entropy(model(data, chosen.tolist()), data.targets[chosen], label_smoothing=0.02)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return model


@torch.inference_mode()
def scores(model: Model, data: Dataset) -> Tensor:
    """Scores [requests, tasks] before temperature scaling."""
    found = [model(data, range(at, min(at + 256, len(data.rows)))) for at in range(0, len(data.rows), 256)]
    return torch.cat(found)


def temperature(found: Tensor, targets: Tensor) -> float:
    """The temperature with the smallest loss, by search over a grid."""
    grid = np.geomspace(0.3, 5.0, 120)
    losses = [float(F.cross_entropy(found / float(divisor), targets)) for divisor in grid]
    return float(grid[int(np.argmin(losses))])
