"""Slot allocation and prefix caching: which sequence owns a slot, and which cached prefix a new context can reuse.

Pure bookkeeping over token ids. A slot is owned by one sequence, or it is free and may retain the context of a former
owner until it is needed, least recently used first. Prefix reuse as in RadixAttention (Zheng et al. 2024,
arXiv:2312.07104), but per slot, since a ring buffer cannot be shared between two context lengths.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from diffusion_worker.memory.budget import context_bytes
from diffusion_worker.memory.scored_prompt import ScoredPrompt, common_prefix
from diffusion_worker.types.model_info import LayerKv
from diffusion_worker.types.requests import SequenceId
from diffusion_worker.types.step_batch import Copy

MIN_REUSE = 16  # tokens; fewer are faster to compute than to copy
MIN_SNAPSHOT = 32  # tokens more than can be reused already; fewer are not worth the pass that ends at them


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """A slot for a sequence, with its reused prefix.

    After `copy` (None: nothing to copy) the slot holds the first `reused` tokens. `boundary`: length of a prefix shared
    with a context whose ring buffer has wrapped, so that it cannot be copied; a snapshot of the new slot at that length
    serves later requests (0: none worth its copy).
    """

    slot: int
    reused: int
    copy: Copy | None
    boundary: int
    scored: ScoredPrompt | None = None  # kept with the reused prefix


@dataclass(slots=True)
class _Slot:
    owner: SequenceId | None = None
    ids: list[int] = field(default_factory=list)  # cached tokens
    used: int = 0  # tick of the last allocation, release or copy, also of a copy from it
    is_read: bool = False  # a pass has ended at its last token, or it is a copy of such a slot
    fills: bool = False  # computed with the weights for canvas templates
    scored: ScoredPrompt | None = None  # a prompt that began its context or one that it continues

    @property
    def idle_since(self) -> int:
        """Tick at which its contents were last used; 0 for an empty slot."""
        return self.used if self.ids else 0

    def clear(self) -> None:
        """Forget its contents."""
        self.ids, self.scored = [], None


class SlotTable:
    """The slots of one cache. Without `is_reusing` there is no prefix cache. With `rereads_last`, the last token of a
    prefix that ends within a slot's context is not reused: its hidden state scores the token that follows it, and only
    that of a slot's own last token is kept (see `memory.prompt_scores`). With `has_template_weights`, contexts for
    canvas templates share no prefix with others, and are not scored."""

    def __init__(
        self,
        layers: Sequence[LayerKv],
        slots: int,
        *,
        itemsize: int,
        is_reusing: bool = True,
        rereads_last: bool = False,
        has_template_weights: bool = False,
    ) -> None:
        self._layers = tuple(layers)
        self._ring = min((layer.window - 1 for layer in layers if layer.window is not None), default=None)
        self._itemsize = itemsize
        self._is_reusing = is_reusing
        self._rereads_last = rereads_last
        self._has_template_weights = has_template_weights
        self._slots = [_Slot() for _ in range(slots)]
        self._tick = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def free(self) -> int:
        """Number of slots without an owner."""
        return sum(slot.owner is None for slot in self._slots)

    @property
    def retained(self) -> int:
        """Number of free slots that retain a context."""
        return sum(slot.owner is None and bool(slot.ids) for slot in self._slots)

    def acquire(
        self, owner: SequenceId, ids: Sequence[int], *, at_most: int, scores: int | None = None, fills: bool = False
    ) -> Allocation:
        """Allocate a slot for a context that begins with `ids`, of which at most `at_most` tokens may be reused; with
        `scores`, only tokens whose log-probabilities are kept, with those of so many most likely tokens. `fills`: it is
        for a canvas template. There must be a free slot."""
        fills = fills and self._has_template_weights
        source, reused, boundary = self._best_match(ids, at_most, scores, fills=fills)
        slot = self._least_useful(source)
        if slot is None:  # the only free slot is the one with the prefix: reuse it in place
            assert source is not None, "no slot is free"
            slot = source
        copy = None if source is None or source == slot else Copy(source=source, target=slot, tokens=reused)
        scored = None if source is None else self._slots[source].scored
        if source is not None:
            self._touch(source)
        self._slots[slot].owner, self._slots[slot].scored, self._slots[slot].fills = owner, scored, fills
        self._slots[slot].ids = list(ids[:reused])
        self._slots[slot].is_read = False  # a prefix of another context
        self._touch(slot)
        return Allocation(slot=slot, reused=reused, copy=copy, boundary=boundary, scored=scored)

    def extend(self, slot: int, ids: Sequence[int]) -> None:
        """Record that `ids` were appended to the slot."""
        self._slots[slot].ids += ids
        self._slots[slot].is_read = True

    def keep_scores(self, slot: int, scored: ScoredPrompt) -> None:
        """Keep the log-probabilities of the prompt that the slot's context begins with."""
        self._slots[slot].scored = scored

    def snapshot(self, slot: int) -> Copy | None:
        """Copy the slot's contents into the prefix cache, if two slots are free and none holds them yet."""
        held, fills = self._slots[slot].ids, self._slots[slot].fills
        spare = [index for index, other in enumerate(self._slots) if other.owner is None]
        is_held = any(self._slots[index].ids == held and self._slots[index].fills is fills for index in spare)
        if not self._is_reusing or len(spare) < 2 or is_held:
            return None
        target = self._least_useful(None)
        assert target is not None
        self._slots[target].ids, self._slots[target].scored = list(held), self._slots[slot].scored
        self._slots[target].fills = fills
        self._slots[target].is_read = True
        self._touch(target)
        return Copy(source=slot, target=target, tokens=len(held))

    def release(self, slot: int, *, retain: bool = True) -> None:
        """Free a slot. Its contents stay in the prefix cache if `retain`."""
        self._slots[slot].owner = None
        if not (retain and self._is_reusing):
            self._slots[slot].clear()
        self._touch(slot)

    def invalidate(self, slot: int) -> None:
        """Forget the contents of a free slot: a step wrote to it after its owner had ended."""
        if slot < len(self._slots) and self._slots[slot].owner is None:
            self._slots[slot].clear()

    def evict_retained(self) -> int:
        """Drop all retained contexts; returns their number."""
        dropped = [slot for slot in self._slots if slot.owner is None and slot.ids]
        for slot in dropped:
            slot.clear()
        return len(dropped)

    def shrunk_to(self) -> int:
        """Number of slots up to the last owned one, at least 1."""
        return 1 + max((index for index, slot in enumerate(self._slots) if slot.owner is not None), default=0)

    def resize(self, slots: int) -> None:
        """See `KvCache.resize`; no owned slot may be dropped."""
        assert all(slot.owner is None for slot in self._slots[slots:]), "an owned slot would be lost"
        self._slots = self._slots[:slots] + [_Slot() for _ in range(slots - len(self._slots))]

    def reset(self, slots: int) -> None:
        """Forget all contents and owners; there are `slots` slots from now on."""
        self._slots = [_Slot() for _ in range(slots)]

    def used_bytes(self) -> int:
        """Bytes of keys and values in owned slots."""
        owned = [len(slot.ids) for slot in self._slots if slot.owner is not None]
        return sum(context_bytes(self._layers, tokens, self._itemsize) for tokens in owned)

    def _best_match(
        self, ids: Sequence[int], at_most: int, scores: int | None, *, fills: bool
    ) -> tuple[int | None, int, int]:
        """(slot to reuse, tokens of it, boundary)."""
        source, reused, boundary = None, 0, 0
        for index, slot in enumerate(self._slots if self._is_reusing else ()):
            common = min(_common(slot.ids, ids), at_most) if slot.fills is fills else 0
            if scores is not None:
                common = min(common, slot.scored.reusable(ids, top=scores) if slot.scored else 0)
            if self._rereads_last and not fills and (common < len(slot.ids) or not slot.is_read):
                common -= 1
            if common < MIN_REUSE:
                continue
            # A ring buffer that has wrapped is valid at its own length only.
            if common == len(slot.ids) or self._ring is None or len(slot.ids) <= self._ring:
                if common > reused:
                    source, reused = index, common
            else:
                boundary = max(boundary, common)
        return source, reused, boundary if boundary >= reused + MIN_SNAPSHOT else 0

    def _least_useful(self, excluded: int | None) -> int | None:
        """The first empty free slot, so that slots stay consecutive, else the least recently used free one."""
        free = [index for index, slot in enumerate(self._slots) if slot.owner is None and index != excluded]
        return min(free, key=lambda index: (self._slots[index].idle_since, index), default=None)

    def _touch(self, slot: int) -> None:
        self._tick += 1
        self._slots[slot].used = self._tick


def _common(held: Sequence[int], ids: Sequence[int]) -> int:
    """Length of the common prefix; 0 if it is certainly too short to be reused."""
    return common_prefix(held, ids) if list(held[:MIN_REUSE]) == list(ids[:MIN_REUSE]) else 0
