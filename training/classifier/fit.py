"""Softmax regression over hashed features, and temperature scaling for a calibrated confidence.

Minimises cross-entropy with decay, by Adam over shuffled batches, in one thread: the same weights for the same seed on
the same machine. Temperature after Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gateway.classifier.features import TABLE_ROWS, features
from gateway.classifier.hashing import Rows
from gateway.enums import Task
from training.classifier.examples import Example

_TASKS = list(Task)
_BATCH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Features of a set of examples: rows and weights, the start of each example, and its label.

    `edges` are the hashes of the words at the edges of all examples.
    """

    rows: Tensor  # [features of all]
    weights: Tensor  # [features of all]
    starts: Tensor  # [examples + 1]
    labels: Tensor  # [examples]
    edges: Rows

    def batch(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows, weights, offsets and labels of the chosen examples."""
        spans = [slice(int(self.starts[i]), int(self.starts[i + 1])) for i in chosen]
        sizes = torch.tensor([0, *(span.stop - span.start for span in spans[:-1])])
        rows = torch.cat([self.rows[span] for span in spans])
        weights = torch.cat([self.weights[span] for span in spans])
        return rows, weights, sizes.cumsum(0), self.labels[chosen]


def matrix(examples: Sequence[Example]) -> Matrix:
    """Features of all examples."""
    found = [features(system=each.system, user=each.user) for each in examples]
    starts = np.cumsum([0, *(each.rows.size for each in found)])
    return Matrix(
        rows=torch.from_numpy(np.concatenate([each.rows for each in found]).astype(np.int32)),
        weights=torch.from_numpy(np.concatenate([each.weights for each in found])),
        starts=torch.from_numpy(starts),
        labels=torch.tensor([_TASKS.index(each.task) for each in examples]),
        edges=np.concatenate([edge for each in found for edge in each.edges]),
    )


def fit(data: Matrix, *, seed: int, epochs: int, rate: float = 0.01, decay: float = 2e-6) -> nn.EmbeddingBag:
    """Fit a table [rows, tasks]: the score of a task is the weighted sum of the active rows."""
    generator = torch.Generator().manual_seed(seed)
    table = nn.EmbeddingBag(TABLE_ROWS, len(_TASKS), mode="sum")
    nn.init.zeros_(table.weight)
    optimizer = torch.optim.Adam(table.parameters(), lr=rate)
    count = data.labels.numel()
    total = epochs * -(-count // _BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=total)
    for _ in range(epochs):
        for chosen in torch.randperm(count, generator=generator).split(_BATCH):
            rows, weights, offsets, labels = data.batch(chosen)
            loss = F.cross_entropy(table(rows, offsets, weights), labels, label_smoothing=0.02)
            loss = loss + decay * table.weight.square().sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return table


@torch.inference_mode()
def scores(table: nn.EmbeddingBag, data: Matrix) -> Tensor:
    """Scores [examples, tasks] before temperature scaling."""
    found: Tensor = table(data.rows, data.starts[:-1].to(torch.int32), data.weights)
    return found


def temperature(found: Tensor, labels: Tensor) -> float:
    """The temperature with the smallest loss, by search over a grid."""
    grid = np.geomspace(0.3, 5.0, 120)
    losses = [float(F.cross_entropy(found / float(divisor), labels)) for divisor in grid]
    return float(grid[int(np.argmin(losses))])
