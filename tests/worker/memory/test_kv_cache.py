"""The cache keeps sealed tokens at their positions, and nothing of failed passes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.models.interface import FULL, SLIDING
from diffusion_worker.types.model_info import LayerKv

LAYERS = (LayerKv(heads=1, head_dim=1, window=6), LayerKv(heads=1, head_dim=1, window=None))


def cache(slots: int = 3, slot_tokens: int = 40) -> KvCache:
    return KvCache(LAYERS, slots=slots, slot_tokens=slot_tokens, dtype=torch.float32, device=torch.device("cpu"))


class Filled:
    """A cache and the number of tokens in each slot, as `memory.slots` records it."""

    def __init__(self, **shape: int) -> None:
        self.cache = cache(**shape)
        self.lengths = [0] * self.cache.slots

    def extend(self, tokens: dict[int, list[int]], *, seal: bool = True) -> dict[int, list[torch.Tensor]]:
        """Append numbers as keys; returns per layer [rows, seen] what each row's last new token attends to."""
        slots, rows = list(tokens), list(tokens.values())
        view = self.cache.prefill_view(slots, [self.lengths[slot] for slot in slots], [len(row) for row in rows])
        width = max(len(row) for row in rows)
        fresh = torch.tensor([row + [-1] * (width - len(row)) for row in rows], dtype=torch.float32)[:, None, :, None]
        seen = {}
        for layer, kind in enumerate((SLIDING, FULL)):
            keys, _ = view.update(fresh, fresh, layer)
            mask = view.masks[kind]
            seen[layer] = [
                keys[row, 0, :, 0] if mask is None else keys[row, 0, :, 0][mask[row, 0, len(rows[row]) - 1]]
                for row in range(len(rows))
            ]
        if seal:
            self.cache.seal(view)
            for slot, row in tokens.items():
                self.lengths[slot] += len(row)
        return seen

    def context(self, slots: list[int], layer: int, *, bucket: int | None = None) -> list[list[int]]:
        """The tokens that a canvas on each slot attends to, sorted."""
        view = self.cache.canvas_view(slots, [self.lengths[slot] for slot in slots], 4, bucket=bucket)
        keys, mask = view.layers[layer].keys, view.masks[(SLIDING, FULL)[layer]]
        count = keys.shape[2]
        return [
            sorted((keys[row, 0, :, 0] if mask is None else keys[row, 0, :, 0][mask[row, 0, 0, :count]]).int().tolist())
            for row in range(len(slots))
        ]


@given(
    chunks=st.lists(st.dictionaries(st.integers(0, 2), st.integers(1, 9), min_size=1), min_size=1, max_size=4),
)
def test_every_row_sees_its_own_past_within_the_window_however_it_was_appended(chunks: list[dict[int, int]]) -> None:
    it, past = Filled(), {0: [0], 1: [0], 2: [0]}
    it.extend({slot: [0] for slot in past})
    number = 1
    for chunk in chunks:
        new: dict[int, list[int]] = {}
        for slot, count in chunk.items():
            new[slot] = list(range(number, number + count))
            number += count
            past[slot] += new[slot]
        seen = it.extend(new)
        for row, slot in enumerate(new):
            assert sorted(seen[0][row].int().tolist()) == past[slot][-6:], "the token itself and window - 1 before"
            assert sorted(seen[1][row].int().tolist()) == past[slot]
    assert it.context([0, 1, 2], 0) == [past[s][-5:] for s in range(3)], "canvas rows: window - 1, all the same"
    assert it.context([2, 0], 1) == [past[2], past[0]], "in any order of rows"
    assert it.context([2, 0], 1, bucket=40) == [past[2], past[0]], "however wide the view"


def test_what_was_not_sealed_never_happened() -> None:
    it = Filled()
    it.extend({1: list(range(1, 10))})
    it.extend({1: [50, 51, 52]}, seal=False)
    assert it.context([1], 0) == [[5, 6, 7, 8, 9]], "a failed pass leaves even a full ring untouched"


def test_positions_go_on_behind_each_rows_own_context() -> None:
    it = cache()
    assert it.canvas_view([1, 2], [3, 7], 4).positions.tolist() == [[3, 4, 5, 6], [7, 8, 9, 10]]
    assert it.prefill_view([2, 1], [7, 3], [1, 2]).positions.tolist() == [[7, 8], [3, 4]]


def test_a_view_is_kept_until_a_slot_a_length_or_a_content_changes() -> None:
    it = Filled()
    it.extend({1: [5]})
    view = it.cache.canvas_view([1], [1], 4)
    assert it.cache.canvas_view([1], [1], 4) is view
    assert it.cache.canvas_view([1], [1], 5) is not view
    it.extend({1: [6]})
    assert it.context([1], 1) == [[5, 6]]


def test_a_slot_that_starts_again_does_not_show_its_past() -> None:
    it = Filled(slots=1)
    it.extend({0: [5, 6, 7]})
    it.lengths[0] = 0
    it.extend({0: [8]})
    assert it.context([0], 1) == [[8]]


def test_a_view_of_a_slots_former_text_is_not_shown_to_its_next() -> None:
    it = Filled()
    it.extend({0: [5], 1: [6], 2: [7]})
    assert it.context([0, 2], 1) == [[5], [7]]
    it.lengths[2] = 0
    it.extend({2: [8]})
    assert it.context([0, 2], 1) == [[5], [8]], "same slots, same lengths, another text"


@given(length=st.integers(1, 20), taken=st.integers(1, 20), more=st.integers(1, 9))
def test_a_copy_sees_what_its_source_saw_and_goes_its_own_way(length: int, taken: int, more: int) -> None:
    taken = length if length > 5 else min(taken, length)  # a wrapped ring can be copied at its current length only
    it = Filled()
    it.extend({0: list(range(length)), 1: list(range(60, 67))})
    it.context([1, 2], 0)  # a view that the copy must invalidate
    it.cache.copy(0, 1, taken)
    it.lengths[1] = taken
    assert it.context([1], 1) == [list(range(taken))]
    assert it.context([1], 0) == [list(range(taken))[-5:]]
    it.extend({1: list(range(80, 80 + more))})
    assert it.context([1], 0) == [(list(range(taken)) + list(range(80, 80 + more)))[-5:]]
    assert it.context([0], 1) == [list(range(length))], "the source is untouched"


def test_resizing_keeps_the_lowest_slots_and_frees_or_zeroes_the_rest() -> None:
    it = Filled()
    it.extend({0: [5, 6], 1: [7], 2: [8]})
    full = it.cache.keys[1].untyped_storage().nbytes()
    it.cache.resize(2)
    assert it.cache.slots == 2
    assert it.cache.keys[1].untyped_storage().nbytes() == full * 2 // 3, "memory is given back, not only hidden"
    assert it.context([0, 1], 1) == [[5, 6], [7]]
    it.cache.resize(3)
    assert it.context([0, 1], 1) == [[5, 6], [7]]
    assert not any(bool(store[2].any()) for store in (*it.cache.keys, *it.cache.values)), "finite and empty"


def test_scrubbing_wipes_the_slot_and_no_other() -> None:
    it = Filled(slots=2)
    it.extend({0: [5], 1: [6]})
    it.cache.keys[1][0].fill_(float("nan"))
    it.cache.zero(0)
    assert not any(bool(store[0].any()) for store in (*it.cache.keys, *it.cache.values))
    assert it.context([1], 1) == [[6]]


def test_more_tokens_than_a_slot_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="3 tokens after 2 exceed the slot size of 4"):
        cache(slot_tokens=4).prefill_view([1], [2], [3])
