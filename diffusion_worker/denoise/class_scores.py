"""Scores of token equivalence classes in torch, on the device of the logits, and the tokens of chosen classes.

The logits of a row stay where they are: they are read once, class by class, and the host gets a number or three per
position and class (see `constraints.inference.class_reduction`). The host answers with one class per position, whose
most likely token, or a sample, is found in a single chunk of the class. Pure functions of tensors, except for
`on_device`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_worker.constraints.inference.class_reduction import CHUNK, ClassLayout, ClassScores
from diffusion_worker.denoise.draws import invert_grouped
from diffusion_worker.denoise.logit_reads import position_blocks
from diffusion_worker.models.fused import fused
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.models.interface import capped

_NONE: Final = -1e30  # the logit of a slot without a token


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLayout:
    """A `ClassLayout` on a device."""

    single: torch.Tensor  # [singles] tokens
    slots: torch.Tensor  # [chunks, CHUNK] tokens; -1: none
    first_chunk: torch.Tensor  # [classes - singles + 1]
    owner: torch.Tensor  # [chunks] the class of each chunk, counted from the first class of several tokens
    members: torch.Tensor  # [chunks, classes - singles] 1 where the chunk is of the class


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """Scores of chunks [positions, chunks]: the largest logit, and the sum of weights relative to it at the temperature
    of sampling, of which `sampling` is the inverse."""

    peak: torch.Tensor
    total: torch.Tensor
    sampling: float


_KEPT: Final[WeakKeyDictionary[ClassLayout, dict[torch.device, DeviceLayout]]] = WeakKeyDictionary()


def on_device(layout: ClassLayout, device: torch.device) -> DeviceLayout:
    """The layout on a device, copied on the first call."""
    kept = _KEPT.setdefault(layout, {})
    if device not in kept:
        owner = np.repeat(np.arange(len(layout.first_chunk) - 1), np.diff(layout.first_chunk))
        members = np.zeros((layout.chunks, len(layout.first_chunk) - 1), np.float32)
        members[np.arange(len(owner)), owner] = 1.0
        arrays = (layout.single, layout.slots, layout.first_chunk, owner.astype(np.int64), members)
        names = ("single", "slots", "first_chunk", "owner", "members")
        tensors = {name: upload(torch.from_numpy(array), device) for name, array in zip(names, arrays, strict=True)}
        kept[device] = DeviceLayout(**tensors)
    return kept[device]


def _sums_in_blocks(raw: torch.Tensor, slots: torch.Tensor, scales: torch.Tensor, cap: float) -> torch.Tensor:
    return torch.cat([_chunk_sums(raw[block], slots, scales, cap) for block in position_blocks(*raw.shape)], dim=1)


def _chunk_sums(raw: torch.Tensor, slots: torch.Tensor, scales: torch.Tensor, cap: float) -> torch.Tensor:
    is_token = slots >= 0
    logits = capped(raw[:, slots.clamp(min=0)], cap) / scales[0]
    logits = torch.where(is_token, logits, _NONE)
    peak = logits.amax(-1)
    shifted = logits - peak[..., None]
    weights = torch.where(is_token, shifted.exp(), 0.0)
    sampled = torch.where(is_token, (shifted * scales[1]).exp(), 0.0)
    return torch.stack([peak, weights.sum(-1), (weights * shifted).sum(-1), sampled.sum(-1)])


@fused("chunk_sums", eager=_sums_in_blocks)
def chunk_sums(raw: torch.Tensor, slots: torch.Tensor, scales: torch.Tensor, cap: float) -> torch.Tensor:
    """Of the chunks `slots` of logits as the head gives them [positions, vocab], [4, positions, chunks]: the largest,
    and relative to it the sums of the weights e^x, of e^x x, and of e^(x s). `scales` are the annealing temperature,
    by which logits are divided, and s."""
    return _chunk_sums(raw, slots, scales, cap)


def join_chunks(sums: torch.Tensor, layout: DeviceLayout, sampling: float) -> torch.Tensor:
    """Scores of the classes of several tokens [3, positions, classes] from `chunk_sums`: the largest logit, the
    log-sum-exp and the entropy, and as a fourth the log-sum-exp of logits times `sampling` unless that is 1."""
    peak, total, weighted, sampled = sums
    owner = layout.owner.expand(len(peak), -1)
    top = peak.new_full((len(peak), layout.members.shape[1]), _NONE).scatter_reduce(1, owner, peak, "amax")
    shift = peak - top.gather(1, owner)
    share = shift.exp()
    of_class = (share * total) @ layout.members
    logsum = of_class.log()
    entropy = logsum - (share * (weighted + shift * total)) @ layout.members / of_class
    found = [top, top + logsum, entropy]
    if sampling != 1.0:
        found.append(top * sampling + (((shift * sampling).exp() * sampled) @ layout.members).log())
    return torch.stack(found)


def class_numbers(
    raw: torch.Tensor, layout: DeviceLayout, temperature: torch.Tensor, sampling: float, cap: float
) -> tuple[torch.Tensor, Chunks]:
    """All that the host needs of the logits [positions, vocab], flat, see `class_scores_of`; and what stays here."""
    scales = torch.stack([temperature, torch.full_like(temperature, sampling)])
    has_chunks = len(layout.slots) > 0  # a graph of its own
    sums = chunk_sums(raw, layout.slots, scales, cap) if has_chunks else scales.new_empty(4, len(raw), 0)
    singles = capped(raw[:, layout.single], cap) / temperature
    numbers = torch.cat([singles.flatten(), join_chunks(sums, layout, sampling).flatten()])
    return numbers, Chunks(peak=sums[0], total=sums[3], sampling=sampling)


def class_scores_of(numbers: NDArray[np.float32], positions: int, layout: ClassLayout, sampling: float) -> ClassScores:
    """Scores of all classes from the numbers that `class_numbers` packs."""
    singles = numbers[: positions * layout.singles].reshape(positions, layout.singles)
    kinds = 3 if sampling == 1.0 else 4
    others = numbers[singles.size :].reshape(kinds, positions, layout.classes - layout.singles)
    peak, mass = (np.concatenate([singles, each], axis=1) for each in others[:2])
    entropy = np.concatenate([np.zeros_like(singles), others[2]], axis=1)
    sampled = None if sampling == 1.0 else np.concatenate([singles * np.float32(sampling), others[3]], axis=1)
    return ClassScores(peak=peak, mass=mass, entropy=entropy, sampled=sampled)


# Logits [places, CHUNK] of tokens [places, CHUNK] at the first so many positions
LogitsAt = Callable[[torch.Tensor], torch.Tensor]


def likeliest_members(layout: DeviceLayout, chunks: Chunks, classes: torch.Tensor, logits_at: LogitsAt) -> torch.Tensor:
    """The most likely token of one class per position: [places] tokens from the `classes` of the first positions."""
    if not len(layout.slots):
        return layout.single[classes].long()
    is_inside, single = _inside(layout, classes)
    peak = torch.where(is_inside, chunks.peak[: len(classes)], 2 * _NONE)
    slots = layout.slots[peak.argmax(-1)].long()
    logits = torch.where(slots >= 0, logits_at(slots.clamp(min=0)), 2 * _NONE)
    return torch.where(single >= 0, single, slots.gather(1, logits.argmax(-1, keepdim=True))[:, 0])


def sampled_members(
    layout: DeviceLayout, chunks: Chunks, classes: torch.Tensor, rests: torch.Tensor, logits_at: LogitsAt
) -> torch.Tensor:
    """The same, drawn by uniform numbers `rests` [places] in [0, 1)."""
    if not len(layout.slots):
        return layout.single[classes].long()
    is_inside, single = _inside(layout, classes)
    peak, total = chunks.peak[: len(classes)], chunks.total[: len(classes)]
    top = torch.where(is_inside, peak, _NONE).amax(-1, keepdim=True)
    weights = torch.where(is_inside, total * ((peak - top) * chunks.sampling).exp(), 0.0).double()

    def inside(chunk: torch.Tensor) -> torch.Tensor:
        slots = layout.slots[chunk[:, 0]].long()
        logits = torch.where(slots >= 0, logits_at(slots.clamp(min=0)), _NONE)
        return ((logits - logits.amax(-1, keepdim=True)) * chunks.sampling).exp()

    places = invert_grouped(weights, rests, inside, CHUNK)
    return torch.where(single >= 0, single, layout.slots.flatten()[places.clamp(max=layout.slots.numel() - 1)].long())


def _inside(layout: DeviceLayout, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[places, chunks] whether a chunk is of the place's class, and [places] the token of a class of one, else -1."""
    singles, others = len(layout.single), len(layout.first_chunk) - 1
    other = (classes - singles).clamp(min=0, max=max(others - 1, 0))
    first, stop = layout.first_chunk[other], layout.first_chunk[(other + 1).clamp(max=others)]
    chunk = torch.arange(len(layout.slots), device=classes.device)
    is_inside = (chunk >= first[:, None]) & (chunk < stop[:, None]) & (classes >= singles)[:, None]
    if not singles:
        return is_inside, torch.full_like(classes, -1)
    single = layout.single[classes.clamp(max=singles - 1)].long()
    return is_inside, torch.where(classes < singles, single, -1)
