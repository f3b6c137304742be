"""A canvas template: given text with holes, each to be filled with one of its labels, and the labels' probabilities.

The labels of a hole form a trie of token ids. Where the trie branches, the logits of the position decide between the
tokens that lead to labels, and only those: a label's probability is the product of the shares at the branches on its
path. The probabilities of a hole therefore sum to 1 whatever the labels' lengths, and tokens that all labels share have
no weight. The first pass sees no token of a label, so a branch behind another one would be decided without knowing
which token precedes it; `narrowed` pins the likeliest beginnings, and the second pass decides the branches behind them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

FREE = -1  # a position without a given token
Doubles = NDArray[np.float64]
Probabilities = tuple[tuple[float, ...], ...]  # per hole, of its labels
Site = tuple[int, int]  # (position on the canvas, token)


@dataclass(frozen=True, slots=True)
class Branch:
    """Where labels part: `labels[i]` are those that continue with `tokens[i]` at this depth."""

    depth: int
    tokens: tuple[int, ...]
    labels: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """Positions from `start` that hold one of `labels`: token sequences of which none begins another.

    `likeliest` and `prior` are set by the first pass: the label whose beginning is pinned up to `pinned` tokens, and
    the probabilities so far.
    """

    start: int
    labels: tuple[tuple[int, ...], ...]
    pinned: int = 0
    likeliest: int = 0
    prior: tuple[float, ...] = ()
    branches: tuple[Branch, ...] = field(init=False)  # that the next pass decides, from the root

    def __post_init__(self) -> None:
        beginning = self.labels[self.likeliest][: self.pinned]
        reached = [index for index, ids in enumerate(self.labels) if ids[: self.pinned] == beginning]
        object.__setattr__(self, "branches", tuple(_branches(self.labels, reached, self.pinned)))

    @property
    def width(self) -> int:
        """Positions that the longest label takes."""
        return max(map(len, self.labels))

    @property
    def sites(self) -> Iterator[Site]:
        """The logits that the next pass needs, branch by branch."""
        return ((self.start + branch.depth, token) for branch in self.branches for token in branch.tokens)

    def probabilities(self, logits: Doubles) -> tuple[float, ...]:
        """Of the labels, from the logits at `sites`."""
        found = np.zeros(len(self.labels))
        reached = sorted({label for branch in self.branches for labels in branch.labels for label in labels})
        used = 0
        for branch in self.branches:
            shares = _log_softmax(logits[used : used + len(branch.tokens)])
            used += len(branch.tokens)
            for share, labels in zip(shares, branch.labels, strict=True):
                found[list(labels)] += share
        if not self.prior:
            return tuple((np.exp(found) / np.exp(found).sum()).tolist())
        combined = np.array(self.prior)
        if reached:
            combined[reached] = combined[reached].sum() * np.exp(found[reached])
        return tuple((combined / combined.sum()).tolist())

    def narrowed(self, probabilities: tuple[float, ...]) -> "Hole":
        """The hole with the likeliest label pinned as far as it is decided."""
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        decided = min((branch.depth for branch in self.branches), default=0) + 1
        behind = [branch.depth for branch in self.branches if branch.depth >= decided and _is_on(branch, best)]
        pinned = min(behind, default=len(self.labels[best]))
        return replace(self, pinned=pinned, likeliest=best, prior=probabilities)


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One canvas: `ids` of all its positions, FREE where holes are undecided."""

    ids: tuple[int, ...]
    holes: tuple[Hole, ...]
    pad_id: int  # fills a hole behind a label that is shorter

    @property
    def pins(self) -> tuple[int, ...]:
        """The given text and the decided beginnings of labels; FREE elsewhere."""
        pins = list(self.ids)
        for hole in self.holes:
            label = hole.labels[hole.likeliest]
            pins[hole.start : hole.start + hole.pinned] = label[: hole.pinned]
            if hole.pinned == len(label):
                pins[hole.start + hole.pinned : hole.start + hole.width] = [self.pad_id] * (hole.width - hole.pinned)
        return tuple(pins)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The logits that the next pass needs."""
        return tuple(site for hole in self.holes for site in hole.sites)

    @property
    def is_decided(self) -> bool:
        """Whether no branch is left for another pass."""
        return not any(hole.branches for hole in self.holes)

    def probabilities(self, logits: Doubles) -> Probabilities:
        """Per hole, of its labels, from the logits at `sites`."""
        found: list[tuple[float, ...]] = []
        used = 0
        for hole in self.holes:
            count = sum(len(branch.tokens) for branch in hole.branches)
            found.append(hole.probabilities(logits[used : used + count]))
            used += count
        return tuple(found)

    def narrowed(self, probabilities: Sequence[tuple[float, ...]]) -> "Template":
        """The template of the second pass."""
        holes = tuple(hole.narrowed(found) for hole, found in zip(self.holes, probabilities, strict=True))
        return replace(self, holes=holes)


def template_of(
    parts: Sequence[tuple[Sequence[int], Sequence[tuple[int, ...]]]], end: Sequence[int], *, pad_id: int
) -> Template:
    """A template from (given ids, labels of the hole behind them), with the ids behind the last hole. Beginnings that
    all labels of a hole share are given text from the start."""
    ids: list[int] = []
    holes: list[Hole] = []
    for given, labels in parts:
        ids.extend(given)
        hole = Hole(start=len(ids), labels=tuple(labels))
        pinned = min((branch.depth for branch in hole.branches), default=0)
        holes.append(replace(hole, pinned=pinned))
        ids.extend([FREE] * hole.width)
    ids.extend(end)
    return Template(ids=tuple(ids), holes=tuple(holes), pad_id=pad_id)


def _branches(labels: Sequence[tuple[int, ...]], reached: Sequence[int], depth: int) -> Iterator[Branch]:
    """Of the sub-trie of `reached` labels, which are equal before `depth`, from its root."""
    open_ = [(list(reached), depth)]
    while open_:
        group, at = open_.pop()
        while len(group) > 1:
            by_token: dict[int, list[int]] = {}
            for label in group:
                by_token.setdefault(labels[label][at], []).append(label)
            if len(by_token) > 1:
                yield Branch(at, tuple(by_token), tuple(map(tuple, by_token.values())))
                open_.extend((each, at + 1) for each in by_token.values())
                break
            at += 1


def _is_on(branch: Branch, label: int) -> bool:
    return any(label in labels for labels in branch.labels)


def _log_softmax(logits: Doubles) -> Doubles:
    shifted = logits - logits.max()
    found: Doubles = shifted - np.log(np.exp(shifted).sum())
    return found
