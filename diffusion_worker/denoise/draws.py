"""Random draws: initial canvases, sampled tokens and noise.

Every draw is a pure function of (seed, block, step, purpose, position): without state, batching, preemption and replay
cannot change it. `GeneratorDraws` instead consumes a torch.Generator in the order of transformers' `generate()`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as nnf

from diffusion_worker.models.host_to_device import upload
from diffusion_worker.types.requests import SequenceId

OPENING, SAMPLE, NOISE, TEXT = 0, 1, 2, 3  # purposes of a draw
_MASK = (1 << 64) - 1
_STRIDE = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: the increment of splitmix64


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawKey:
    """Identifies the draws of one row in one step."""

    sequence: SequenceId
    seed: int
    block: int
    step: int


class Draws(Protocol):
    """Source of a step's random numbers; one key per row."""

    def opening(self, key: DrawKey, length: int, vocab_size: int) -> torch.Tensor:
        """An initial canvas [canvas] of uniform ids."""
        ...

    def sample(self, keys: Sequence[DrawKey], probabilities: torch.Tensor) -> torch.Tensor:
        """One id per position [rows, canvas], sampled from probabilities [rows, canvas, vocab]."""
        ...

    def uniforms(self, keys: Sequence[DrawKey], length: int) -> torch.Tensor | None:
        """The uniform numbers [rows, canvas] in [0, 1) that `sample` turns into ids; None if it needs more than one
        number per position."""
        ...

    def noise(self, keys: Sequence[DrawKey], length: int, vocab_size: int) -> torch.Tensor:
        """Uniform ids [rows, canvas]; called after `sample`."""
        ...

    def text(self, keys: Sequence[DrawKey], length: int) -> torch.Tensor:
        """Uniform numbers [rows, canvas] in [0, 1) for sampling constrained text; called after `noise`, and only if a
        row is constrained."""
        ...


class CounterDraws:
    """Counter-based draws: a hash of key and position (splitmix64, Steele, Lea and Flood 2014)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def opening(self, key: DrawKey, length: int, vocab_size: int) -> torch.Tensor:
        """See `Draws.opening`."""
        return self._ids((key,), OPENING, length, vocab_size)[0]

    def sample(self, keys: Sequence[DrawKey], probabilities: torch.Tensor) -> torch.Tensor:
        """See `Draws.sample`."""
        return invert_cdf(probabilities, self.uniforms(keys, probabilities.shape[1]))

    def uniforms(self, keys: Sequence[DrawKey], length: int) -> torch.Tensor:
        """See `Draws.uniforms`."""
        return self._uniform(keys, SAMPLE, length)

    def noise(self, keys: Sequence[DrawKey], length: int, vocab_size: int) -> torch.Tensor:
        """See `Draws.noise`."""
        return self._ids(keys, NOISE, length, vocab_size)

    def text(self, keys: Sequence[DrawKey], length: int) -> torch.Tensor:
        """See `Draws.text`."""
        return self._uniform(keys, TEXT, length)

    def _uniform(self, keys: Sequence[DrawKey], purpose: int, length: int) -> torch.Tensor:
        return upload(torch.from_numpy(_uniform(keys, purpose, length)), self._device)

    def _ids(self, keys: Sequence[DrawKey], purpose: int, length: int, vocab_size: int) -> torch.Tensor:
        ids = (_uniform(keys, purpose, length) * vocab_size).astype(np.int64)
        return upload(torch.from_numpy(ids), self._device)


class GeneratorDraws:
    """One torch.Generator per sequence, consumed as transformers does for a batch of one: canvas, then sample and noise
    per step. Used by the parity tests."""

    def __init__(self, generators: dict[SequenceId, torch.Generator]) -> None:
        self._generators = generators

    def opening(self, key: DrawKey, length: int, vocab_size: int) -> torch.Tensor:
        """See `Draws.opening`."""
        return torch.randint(0, vocab_size, (1, length), generator=self._generators[key.sequence])[0]

    def sample(self, keys: Sequence[DrawKey], probabilities: torch.Tensor) -> torch.Tensor:
        """See `Draws.sample`."""
        rows = [
            torch.multinomial(row, 1, generator=self._generators[key.sequence]).squeeze(-1)
            for key, row in zip(keys, probabilities, strict=True)
        ]
        return torch.stack(rows)

    def uniforms(self, _keys: Sequence[DrawKey], _length: int) -> None:
        """See `Draws.uniforms`: multinomial sampling draws a number per token."""
        return

    def noise(self, keys: Sequence[DrawKey], length: int, vocab_size: int) -> torch.Tensor:
        """See `Draws.noise`."""
        return torch.stack([self.opening(key, length, vocab_size) for key in keys])

    def text(self, keys: Sequence[DrawKey], length: int) -> torch.Tensor:
        """See `Draws.text`."""
        return torch.stack([torch.rand(length, generator=self._generators[key.sequence]) for key in keys])


def invert_cdf(probabilities: torch.Tensor, uniform: torch.Tensor, *, width: int = 512) -> torch.Tensor:
    """First id whose cumulative probability exceeds the uniform: [rows, canvas] from [rows, canvas, vocab] and
    [rows, canvas]. Never an id of probability 0.

    Computed in two levels in float64, groups of `width` ids and ids within a group: a cumulative sum over 262144 ids
    is too coarse in fp32 for rare ids, and takes 512 MiB per canvas in float64.
    """
    if probabilities.shape[-1] <= width:
        return _first_exceeding(probabilities.double().cumsum(-1), uniform[..., None]).squeeze(-1)
    filled = nnf.pad(probabilities, (0, -probabilities.shape[-1] % width))
    groups = filled.reshape(*filled.shape[:-1], -1, width)  # [rows, canvas, groups, width]

    def inside(group: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = groups.gather(-2, group[..., None].expand(*group.shape, width)).squeeze(-2)
        return found

    found = invert_grouped(groups.sum(-1, dtype=torch.float64), uniform, inside, width)
    return found.clamp(max=probabilities.shape[-1] - 1)  # NaN, see `_first_exceeding`, must not lead beyond the ids


def invert_grouped(
    sums: torch.Tensor, uniform: torch.Tensor, inside: Callable[[torch.Tensor], torch.Tensor], width: int
) -> torch.Tensor:
    """The same from the weights of groups: `sums` [rows, canvas, groups] in float64, and `inside`, which returns the
    weights [rows, canvas, width] of one group [rows, canvas, 1] per position."""
    edges = sums.cumsum(-1)
    group = _first_exceeding(edges, uniform[..., None])  # [rows, canvas, 1]
    before = nnf.pad(edges, (1, 0)).gather(-1, group)
    mass = edges.gather(-1, group) - before
    rest = (uniform[..., None] * edges[..., -1:] - before) / mass
    within = inside(group).double().cumsum(-1)
    return (group * width + _first_exceeding(within, rest.clamp(min=0.0))).squeeze(-1)


def _first_exceeding(cumulative: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Index [..., 1] of the first entry above share * total. The factor keeps the target strictly below the total, so
    that rounding can neither pass the end nor select an entry of mass 0."""
    target = share.clamp(max=1.0) * cumulative[..., -1:]
    target = torch.minimum(target, cumulative[..., -1:] * (1.0 - 2.0**-52))
    index = torch.searchsorted(cumulative, target, right=True)
    return index.clamp(max=cumulative.shape[-1] - 1)  # only NaN gets here; such a row fails after the step


def _row_hash(key: DrawKey, purpose: int) -> int:
    """64-bit hash of the key; parts are mixed one after another, so that no two (block, step) collide by their sum."""
    bits = _mix_int(key.seed * _STRIDE + 1)
    for part in (key.block, key.step, purpose):
        bits = _mix_int(bits + (part + 1) * _STRIDE)
    return bits


def _mix_int(bits: int) -> int:
    """The finaliser of splitmix64 on a Python integer."""
    bits &= _MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
    return bits ^ (bits >> 31)


def _uniform(keys: Sequence[DrawKey], purpose: int, length: int) -> NDArray[np.float64]:
    """[rows, length] in [0, 1). On the host: on an accelerator, its many small operations would each be a launch."""
    heads = np.array([_row_hash(key, purpose) for key in keys], np.uint64)
    bits = _mix(heads[:, None] + np.arange(length, dtype=np.uint64) * np.uint64(_STRIDE))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 on wrapping integers."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
