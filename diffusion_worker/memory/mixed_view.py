"""The contexts of one pass over causal rows and canvases.

Causal rows are not padded, and each attends to its own keys in the order of their positions, a block of queries at a
time: within a block a mask covers at most QUERY_BLOCK queries, and the first tokens of a context need none. What a row
appends is written to its slot after the pass, but canvases of the same pass attend to it: it is also written to the
copy of the context that they read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from diffusion_worker.memory.kv_cache import CanvasView, KvCache, kinds_of, write_targets
from diffusion_worker.memory.step_memory import QUERY_BLOCK
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.models.interface import CausalRow, QueryBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTokens:
    """Causal rows: `counts[i]` new tokens after `lengths[i]` cached ones in `slots[i]`."""

    slots: tuple[int, ...]
    lengths: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvases:
    """Canvases on `slots`, whose contexts have `lengths` tokens, those of the same pass included; `widths` before their
    padding to `width`."""

    slots: tuple[int, ...]
    lengths: tuple[int, ...]
    widths: tuple[int, ...]
    width: int


class MixedView:
    """See `models.interface.MixedContext`. The slots of the causal rows are distinct. Raises ValueError if new tokens
    exceed a slot."""

    def __init__(self, cache: KvCache, new: NewTokens, canvases: Canvases | None = None) -> None:
        cache.check_room(new.lengths, new.counts)
        self._cache, self._new = cache, new
        self.tokens = sum(new.counts)
        self._kinds = kinds_of(cache.layers)
        self.rows = _rows(new, {kind: cache.layers[layer].window for kind, layer in self._kinds.items()}, cache.device)
        self._held: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._shown: dict[str, torch.Tensor] = {}
        self.kept_canvases: tuple[object, CanvasView] | None = None  # see `KvCache.seal`
        self.canvases: CanvasView | None = None
        spans = [torch.arange(row.length, row.length + row.behind - row.first) for row in self.rows]
        self.positions = upload(torch.cat(spans), cache.device)[None]
        if canvases is not None:
            self._add(canvases)

    def _add(self, canvases: Canvases) -> None:
        rows = {slot: row for row, slot in enumerate(canvases.slots)}
        appended = [place for place, slot in enumerate(self._new.slots) if slot in rows]
        self.kept_canvases = self._cache.keyed_canvas_view(
            canvases.slots, canvases.lengths, canvases.width, canvases=canvases.widths, is_new=bool(appended)
        )
        self.canvases = self.kept_canvases[1]
        self.positions = torch.cat([self.positions, self.canvases.positions.reshape(1, -1)], dim=1)
        if appended:
            into = {place: rows[self._new.slots[place]] for place in appended}
            self._shown = {kind: self._targets(layer, into) for kind, layer in self._kinds.items()}

    def hold(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Hold the keys and values of the causal rows, and show them to the canvases of the same contexts."""
        keys, values = (
            keys.clone(),
            values.clone(),
        )  # those of canvases need not be kept; a compiled pass reuses its memory
        self._held[layer] = keys, values
        if self._shown and self.canvases is not None:
            row, token, index = self._shown[self._cache.kind_of(layer)]
            for buffer, new in zip(self.canvases.layers[layer].buffers, (keys, values), strict=True):
                buffer[row, :, index] = new[token]

    def seen(self, row: CausalRow, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """See `models.interface.MixedContext.seen`."""
        capacity = self._cache.capacities[layer]
        kept = min(row.length, capacity)
        start = row.length % capacity if row.length > capacity else 0  # of a ring buffer that has wrapped
        new = [each[row.first : row.behind].transpose(0, 1) for each in self._held[layer]]
        if not kept:
            return new[0], new[1]
        keys, values = (
            torch.cat([*_unrolled(store[row.slot, :, :kept], start), own], dim=1)
            for store, own in zip((self._cache.keys[layer], self._cache.values[layer]), new, strict=True)
        )
        return keys, values

    def write(self, counts: Sequence[int] | None = None) -> None:
        """Write the new tokens into the slots, or the first `counts[i]` of each row; see `PrefillView.write`."""
        into = dict(enumerate(self._new.slots))
        targets = {kind: self._targets(layer, into, counts) for kind, layer in self._kinds.items()}
        for layer, (keys, values) in self._held.items():
            slot, token, index = targets[self._cache.kind_of(layer)]
            self._cache.keys[layer][slot, :, index] = keys[token]
            self._cache.values[layer][slot, :, index] = values[token]

    def _targets(self, layer: int, into: Mapping[int, int], counts: Sequence[int] | None = None) -> torch.Tensor:
        """(target, new token, ring index) [3, tokens] for the rows that are keys of `into`, whose values are their
        targets: slots, or rows of the canvases."""
        written = self._new.counts if counts is None else counts
        rows = [(target, self._new.lengths[row], written[row], self.rows[row].first) for row, target in into.items()]
        return upload(write_targets(rows, self._cache.capacities[layer]), self._cache.device)


def _unrolled(ring: torch.Tensor, start: int) -> list[torch.Tensor]:
    """The parts of a ring buffer [heads, tokens, head_dim] in the order of their positions."""
    return [ring[:, start:], ring[:, :start]] if start else [ring]


def _rows(new: NewTokens, windows: Mapping[str, int | None], device: torch.device) -> list[CausalRow]:
    spans: list[tuple[int, int]] = []
    for count in new.counts:
        first = spans[-1][1] if spans else 0
        spans.append((first, first + count))
    plans = {
        kind: [_blocks(length, count, window) for length, count in zip(new.lengths, new.counts, strict=True)]
        for kind, window in windows.items()
    }
    masks = {kind: _BlockMask(plans[kind], windows[kind], device) for kind in windows}
    rows = enumerate(zip(new.slots, new.lengths, spans, strict=True))
    return [
        CausalRow(slot, length, *span, {kind: list(map(masks[kind].block, plans[kind][row])) for kind in windows})
        for row, (slot, length, span) in rows
    ]


@dataclass(frozen=True, slots=True)
class _Block:
    """Queries from `first` on and before `behind`, which attend to keys from `start` on, of which `before` come before
    the first query. `is_start`: the first tokens of a context."""

    first: int
    behind: int
    start: int
    before: int
    is_start: bool = False

    @property
    def needs_mask(self) -> bool:
        """Whether they attend to different keys; those of the first tokens need no tensor."""
        return not self.is_start and self.behind - self.first > 1


def _blocks(length: int, count: int, window: int | None) -> list[_Block]:
    """The blocks of `count` new tokens after `length` cached ones, of which a layer keeps window - 1. The first tokens
    of a context are one block without a mask, as far as the window reaches."""
    reach = length + count if window is None else window - 1
    kept, found, first = min(length, reach), list[_Block](), 0
    if not length:
        first = count if window is None else min(count, window)
        found.append(_Block(0, first, 0, 0, is_start=True))
    while first < count:
        behind, before = min(first + QUERY_BLOCK, count), min(kept + first, reach)
        found.append(_Block(first, behind, kept + first - before, before))
        first = behind
    return found


class _BlockMask:
    """The masks of all blocks of a layer type: parts of one, since a mask depends on the distance of query and key."""

    def __init__(self, rows: Sequence[Sequence[_Block]], window: int | None, device: torch.device) -> None:
        blocks = [block for row in rows for block in row if block.needs_mask]
        self._mask: torch.Tensor | None = None
        if not blocks:
            return
        self._before = max(block.before for block in blocks)
        query = torch.arange(max(block.behind - block.first for block in blocks), device=device)[:, None]
        key = torch.arange(-self._before, len(query), device=device)
        self._mask = key <= query
        if window is not None:
            self._mask &= key > query - window

    def block(self, block: _Block) -> QueryBlock:
        """A block with its mask, if it needs one."""
        count = block.behind - block.first
        seen = slice(block.start, block.start + block.before + count)
        mask = None
        if block.needs_mask and self._mask is not None:
            mask = self._mask[:count, self._before - block.before : self._before + count]
        return QueryBlock(block.first, block.behind, seen, mask, block.is_start)
