"""The cache keeps what was sealed, where it belongs, and nothing of what was not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.nets.interface import FULL, SLIDING
from diffusion_worker.records import LayerKv

LAYERS = (LayerKv(heads=1, head_dim=1, window=6), LayerKv(heads=1, head_dim=1, window=None))


def cache(slots: int = 3, slot_tokens: int = 40) -> KvCache:
    return KvCache(LAYERS, slots=slots, slot_tokens=slot_tokens, dtype=torch.float32, device=torch.device("cpu"))


def extend(it: KvCache, tokens: dict[int, list[int]], *, seal: bool = True) -> dict[int, list[torch.Tensor]]:
    """Append numbers as keys; returns per layer [rows, seen] with what each row's last new token attends to kept."""
    sequences, rows = list(tokens), list(tokens.values())
    view = it.appending(sequences, [len(row) for row in rows])
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
        it.seal(view)
    return seen


def context(it: KvCache, sequences: list[int], layer: int) -> list[list[int]]:
    """What a canvas of each sequence sees, sorted."""
    view = it.reading(sequences, 4)
    keys, mask = view.layers[layer].keys, view.masks[(SLIDING, FULL)[layer]]
    count = keys.shape[2]
    return [
        sorted((keys[row, 0, :, 0] if mask is None else keys[row, 0, :, 0][mask[row, 0, 0, :count]]).int().tolist())
        for row in range(len(sequences))
    ]


@settings(max_examples=60)
@given(
    chunks=st.lists(st.dictionaries(st.integers(0, 2), st.integers(1, 9), min_size=1), min_size=1, max_size=4),
)
def test_every_row_sees_its_own_past_within_the_window_however_it_was_appended(chunks: list[dict[int, int]]) -> None:
    it, past = cache(), {0: [0], 1: [0], 2: [0]}
    for sequence in past:
        it.open(sequence)
    extend(it, {sequence: [0] for sequence in past})
    number = 1
    for chunk in chunks:
        new: dict[int, list[int]] = {}
        for sequence, count in chunk.items():
            new[sequence] = list(range(number, number + count))
            number += count
            past[sequence] += new[sequence]
        seen = extend(it, new)
        for row, sequence in enumerate(new):
            assert sorted(seen[0][row].int().tolist()) == past[sequence][-6:], "the token itself and window - 1 before"
            assert sorted(seen[1][row].int().tolist()) == past[sequence]
        it.check_integrity()
    assert context(it, [0, 1, 2], 0) == [past[s][-5:] for s in range(3)], "canvas rows: window - 1, all the same"
    assert context(it, [2, 0], 1) == [past[2], past[0]], "in any order of rows"


def test_what_was_not_sealed_never_happened() -> None:
    it = cache()
    it.open(1)
    extend(it, {1: list(range(1, 10))})
    extend(it, {1: [50, 51, 52]}, seal=False)
    assert it.length(1) == 9
    assert context(it, [1], 0) == [[5, 6, 7, 8, 9]], "a failed pass leaves even a full ring untouched"


def test_positions_go_on_behind_each_rows_own_context() -> None:
    it = cache()
    for sequence, count in ((1, 3), (2, 7)):
        it.open(sequence)
        extend(it, {sequence: [9] * count})
    assert it.reading([1, 2], 4).positions.tolist() == [[3, 4, 5, 6], [7, 8, 9, 10]]
    assert it.appending([2, 1], [1, 2]).positions.tolist() == [[7, 8], [3, 4]]


def test_a_view_is_kept_until_a_member_or_a_length_changes() -> None:
    it = cache()
    it.open(1)
    extend(it, {1: [5]})
    view = it.reading([1], 4)
    assert it.reading([1], 4) is view
    assert it.reading([1], 5) is not view
    extend(it, {1: [6]})
    assert context(it, [1], 1) == [[5, 6]]


def test_a_released_slot_is_reused_without_its_past() -> None:
    it = cache(slots=1)
    it.open(1)
    extend(it, {1: [5, 6, 7]})
    assert it.used_bytes() == 3 * 2 * 2 * 4
    it.release(1)
    assert it.used_bytes() == 0
    it.open(2)
    extend(it, {2: [8]})
    assert context(it, [2], 1) == [[8]]


def test_a_view_of_a_slots_former_owner_is_not_shown_to_its_next() -> None:
    it = cache()
    for sequence, token in ((1, 5), (2, 6), (3, 7)):
        it.open(sequence)
        extend(it, {sequence: [token]})
    assert context(it, [1, 3], 1) == [[5], [7]]
    it.release(3)
    it.open(4)
    extend(it, {4: [8]})
    assert context(it, [1, 4], 1) == [[5], [8]], "same slots, same lengths, another text"


def test_scrubbing_wipes_the_slot() -> None:
    it = cache(slots=1)
    it.open(1)
    extend(it, {1: [5]})
    it.keys[1].fill_(float("nan"))
    it.release(1, scrub=True)
    assert not any(bool(store.any()) for store in (*it.keys, *it.values))


def test_more_tokens_than_a_slot_holds_are_refused() -> None:
    it = cache(slot_tokens=4)
    it.open(1)
    with pytest.raises(ValueError, match="exceed a slot of 4"):
        it.appending([1], [5])


def test_a_lost_slot_is_noticed() -> None:
    it = cache()
    it.open(1)
    del it._slot_of[1]
    with pytest.raises(AssertionError, match="lost"):
        it.check_integrity()
