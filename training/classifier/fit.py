"""Fits the task model: softmax regression over hashed features, with attention over the units of a request.

Minimises cross-entropy by Adam over shuffled batches, in one thread: the same weights for the same seed on the same
machine. A word shares the rows of its stems and concepts; `folded` adds them to its own. Temperature after Guo et al.
2017, "On Calibration of Modern Neural Networks".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gateway.classifier.features import HASHED, Features, features
from gateway.classifier.model import FLAG_WEIGHT, table_rows
from gateway.classifier.tokens import Ids, Vocabulary
from gateway.enums import Task
from training.classifier.compose import Request
from training.classifier.concepts import Concepts, parents
from training.classifier.lines import plain_writers

BATCH: Final = 128
UNKNOWN_SHARE: Final = 0.2  # of words that training takes for unknown ones, so that stems and concepts learn
CONCEPT_WEIGHT: Final = 4.0  # concepts learn faster than single words
BALANCE: Final = 0.5  # exponent of a task's weight, which is the mean number of requests of a task over its own
PLAIN_WEIGHT: Final = 2.0  # of a request in the usual words; most writers were asked to avoid them
LANE_WEIGHT: Final = 1.0  # of the loss of the lane beside that of the task
FAST: Final = (Task.EDIT, Task.AUTOCOMPLETE, Task.STRUCTURED, Task.EXTRACTION)  # tasks of the fast lane
OTHER_LABEL: Final = 0.3  # probability of the labels that are as defensible as the first
_TASKS: Final = list(Task)

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Features of one request: the rows and weights of all units, the number of rows of each unit, and the rows and
    weights of the request as a whole: its flags and its past."""

    rows: Numbers
    weights: Floats
    sizes: npt.NDArray[np.intp]
    flags: Numbers
    flag_weights: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Examples, their soft labels [examples, tasks], and their weights, whose mean is 1."""

    examples: list[Example]
    targets: Tensor
    weights: Tensor


def joined(one: Dataset, other: Dataset) -> Dataset:
    """Both datasets as one."""
    weights = torch.cat([one.weights, other.weights])
    return Dataset(
        examples=[*one.examples, *other.examples],
        targets=torch.cat([one.targets, other.targets]),
        weights=weights / weights.mean(),
    )


class Table:
    """The rows of a model while it is fitted: those of the shipped table, then one for each concept."""

    def __init__(self, vocabulary: Vocabulary, concepts: Concepts) -> None:
        self.vocabulary, self.size = vocabulary, table_rows(vocabulary)
        self.rows = self.size + len(concepts)
        stems, concept_rows = parents(vocabulary, concepts)
        self._chains = [
            *(_chain(at, stems[at], concept_rows[at], self.size, with_word=True) for at in range(len(stems))),
            *(_chain(at, stems[at], concept_rows[at], self.size, with_word=False) for at in range(len(stems))),
        ]
        self._counts = np.array([rows.size for rows, _ in self._chains])
        self._starts = np.cumsum(self._counts) - self._counts
        self._flat_rows = np.concatenate([rows for rows, _ in self._chains])
        self._flat_weights = np.concatenate([weights for _, weights in self._chains])

    def dataset(self, requests: Sequence[Request], *, rng: np.random.Generator | None = None) -> Dataset:
        """Features of all requests; with `rng`, some words are taken for unknown ones."""
        targets = torch.zeros(len(requests), len(_TASKS))
        for at, each in enumerate(requests):
            also = each.line.also_ok
            targets[at, _TASKS.index(each.line.task)] = 1.0 - OTHER_LABEL * bool(also)
            for task in also:
                targets[at, _TASKS.index(task)] = OTHER_LABEL / len(also)
        return Dataset(
            examples=[self._example(each, rng) for each in requests],
            targets=targets,
            weights=_weights(requests, targets),
        )

    def _example(self, request: Request, rng: np.random.Generator | None) -> Example:
        found = features(
            self.vocabulary,
            system=request.system,
            user=request.user,
            earlier=request.earlier,
            answer=request.answer,
        )
        counts = found.sizes
        chains, sizes = self._chained(found, rng)
        own = np.repeat(np.repeat(np.arange(counts.size), counts), sizes)
        by_hash = np.tile(np.repeat(np.arange(counts.size), counts), HASHED)
        flags = np.tile(np.arange(counts.size), 3)
        units = np.concatenate([own, by_hash, flags])
        rows = np.concatenate(
            [
                self._flat_rows[chains],
                found.rows[1:].ravel(),
                found.unit_rows.ravel(),
            ]
        )
        shares = 1.0 / np.sqrt(counts)
        weights = np.concatenate(
            [
                self._flat_weights[chains] * shares[own],
                shares[by_hash],
                np.full(flags.size, FLAG_WEIGHT),
            ]
        )
        order = np.argsort(units, kind="stable")
        past = found.past.size
        whole = [np.full(len(found.request), FLAG_WEIGHT), np.full(past, FLAG_WEIGHT / max(1, past) ** 0.5)]
        return Example(
            rows=rows[order].astype(np.int32),
            weights=weights[order].astype(np.float32),
            sizes=np.bincount(units, minlength=counts.size),
            flags=np.concatenate([found.request, found.past]).astype(np.int32),
            flag_weights=np.concatenate(whole).astype(np.float32),
        )

    def _chained(self, found: Features, rng: np.random.Generator | None) -> tuple[Ids, Ids]:
        """Where the chains of all tokens stand in the flat arrays, and how long each is."""
        chosen = found.rows[0]
        if rng is not None:
            chosen = chosen + len(self.vocabulary.names) * (rng.random(chosen.size) < UNKNOWN_SHARE)
        counts = self._counts[chosen]
        ends = np.cumsum(counts)
        return np.arange(ends[-1]) + np.repeat(self._starts[chosen] - (ends - counts), counts), counts

    def folded(self, weights: Floats) -> Floats:
        """The shipped table: stems and concepts are added to the rows of their words."""
        table = weights[: self.size].copy()
        for number, (rows, shares) in enumerate(self._chains[: len(self.vocabulary.names)]):
            table[number] = shares @ weights[rows]
        return table


def _chain(number: int, stems: list[int], concepts: list[int], size: int, *, with_word: bool) -> tuple[Numbers, Floats]:
    """The rows of a word, or of what is known of a word that is taken for an unknown one, and their weights."""
    words = [number, *stems] if with_word or not (stems or concepts) else stems
    rows = np.array([*words, *(size + each for each in concepts)], dtype=np.int32)
    weights = np.array([1.0] * len(words) + [CONCEPT_WEIGHT] * len(concepts), dtype=np.float32)
    return rows, weights


class Model(nn.Module):
    """The score of a task: the weighted sum of the active rows; units are weighed by a softmax of the last column."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(rows, len(_TASKS) + 1, mode="sum")
        nn.init.zeros_(self.table.weight)

    def forward(self, chosen: Sequence[Example]) -> Tensor:
        """Scores [examples, tasks]."""
        units = self._sums(
            [each.rows for each in chosen], [each.weights for each in chosen], [each.sizes for each in chosen]
        )
        owner = torch.from_numpy(np.repeat(np.arange(len(chosen)), [each.sizes.size for each in chosen]))
        gates = units[:, -1]
        top = torch.full((len(chosen),), -torch.inf).scatter_reduce(0, owner, gates, "amax").detach()
        shares = (gates - top[owner]).exp()
        shares = shares / torch.zeros(len(chosen)).index_add(0, owner, shares)[owner]
        asked = torch.zeros(len(chosen), len(_TASKS)).index_add(0, owner, units[:, :-1] * shares[:, None])
        flags, weights = [each.flags for each in chosen], [each.flag_weights for each in chosen]
        return asked + self._sums(flags, weights, [np.array([each.size]) for each in flags])[:, :-1]

    def _sums(self, rows: list[Numbers], weights: list[Floats], sizes: list[npt.NDArray[np.intp]]) -> Tensor:
        ends = np.cumsum(np.concatenate(sizes))
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int32)
        found: Tensor = self.table(
            torch.from_numpy(np.concatenate(rows)), torch.from_numpy(starts), torch.from_numpy(np.concatenate(weights))
        )
        return found


def fit(data: Dataset, rows: int, *, seed: int, epochs: int, rate: float = 0.03) -> Model:
    """Fit a table of this many rows."""
    generator = torch.Generator().manual_seed(seed)
    model = Model(rows)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    count = len(data.examples)
    total = epochs * -(-count // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=total)
    for _ in range(epochs):
        for chosen in torch.randperm(count, generator=generator).split(BATCH):
            found = model([data.examples[at] for at in chosen.tolist()])
            losses = _losses(found, data.targets[chosen])
            loss = (losses * data.weights[chosen]).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return model


def _losses(found: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of each example's tasks, and that of its lane, which is what policies decide by."""
    tasks = F.cross_entropy(found, targets, label_smoothing=0.02, reduction="none")
    fast = torch.tensor([_TASKS.index(task) for task in FAST])
    rest = torch.tensor([at for at, task in enumerate(_TASKS) if task not in FAST])
    odds = found[:, fast].logsumexp(1) - found[:, rest].logsumexp(1)
    lanes = F.binary_cross_entropy_with_logits(odds, targets[:, fast].sum(1), reduction="none")
    return tasks + LANE_WEIGHT * lanes


def _weights(requests: Sequence[Request], targets: Tensor) -> Tensor:
    """Frequent tasks must not win by their number alone, nor unusual wordings by that of their writers."""
    labels, plain = targets.argmax(1), plain_writers()
    counts = torch.bincount(labels, minlength=len(_TASKS)).clamp(min=1).float()
    weights: Tensor = ((counts.mean() / counts) ** BALANCE)[labels]
    weights *= torch.tensor([PLAIN_WEIGHT if each.line.writer in plain else 1.0 for each in requests])
    return weights / weights.mean()


@torch.inference_mode()
def scores(model: Model, data: Dataset) -> Tensor:
    """Scores [examples, tasks] before temperature scaling."""
    starts = range(0, len(data.examples), 256)
    return torch.cat([model(data.examples[at : at + 256]) for at in starts])


def temperature(found: Tensor, right: Tensor) -> float:
    """The temperature by which the probability of the most probable task tells best whether that is `right`, by search
    over a grid. Labels alone would give one that is too high: a task that is as defensible as the label is right, too.
    """
    grid = np.geomspace(0.3, 5.0, 120)
    tops = ((found / float(divisor)).softmax(1).amax(1) for divisor in grid)
    losses = [float(F.binary_cross_entropy(top, right)) for top in tops]
    return float(grid[int(np.argmin(losses))])
