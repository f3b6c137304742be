"""Contexts of a pass over causal rows and canvases: what each token sees, and which views of canvases stay."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.memory import mixed_view
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.memory.mixed_view import Canvases, MixedView, NewTokens
from diffusion_worker.types.model_info import LayerKv

LAYERS = (LayerKv(heads=1, head_dim=1, window=5), LayerKv(heads=1, head_dim=1, window=None))
CPU = torch.device("cpu")


def cache(slots: int = 3) -> KvCache:
    """The key of a token is its position + 1."""
    return KvCache(LAYERS, slots=slots, slot_tokens=40, dtype=torch.float64, device=CPU)


def keys_from(first: int, count: int) -> torch.Tensor:
    return torch.arange(first + 1, first + count + 1, dtype=torch.float64).view(-1, 1, 1)


def run(store: KvCache, new: NewTokens, canvases: Canvases | None = None) -> MixedView:
    """A pass that is not written to the slots yet."""
    view = MixedView(store, new, canvases)
    held = torch.cat([keys_from(length, count) for length, count in zip(new.lengths, new.counts, strict=True)])
    for layer in range(len(LAYERS)):
        view.hold(layer, held, -held)
    return view


def append(store: KvCache, slot: int, length: int, count: int) -> None:
    store.seal(run(store, NewTokens(slots=(slot,), lengths=(length,), counts=(count,))))


def canvases(*lengths: int) -> Canvases:
    slots = tuple(range(len(lengths)))
    return Canvases(slots=slots, lengths=lengths, widths=(4,) * len(lengths), width=4)


@given(
    rows=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=3), block=st.integers(1, 7)
)
def test_every_token_sees_its_window_up_to_itself_and_no_mask_has_more_queries_than_a_block(
    rows: list[tuple[int, int]], block: int
) -> None:
    store = cache()
    for slot, (length, _) in enumerate(rows):
        if length:
            append(store, slot, 0, length)
    lengths, counts = (tuple(each[side] for each in rows) for side in (0, 1))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mixed_view, "QUERY_BLOCK", block)
        view = run(store, NewTokens(slots=tuple(range(len(rows))), lengths=lengths, counts=counts))
    for layer, kind in enumerate(("sliding_attention", "full_attention")):
        for row in view.rows:
            keys, values = view.seen(row, layer)
            assert torch.equal(keys, -values)
            seen: list[list[int]] = []
            for each in row.blocks[kind]:
                part, count = keys[0, each.seen, 0], each.behind - each.first
                mask = torch.ones(count, len(part), dtype=torch.bool) if each.mask is None else each.mask
                assert each.mask is None or count <= block
                mask = mask.tril() if each.is_causal else mask
                assert len(seen) == each.first
                seen += [[int(key) - 1 for key in part[chosen]] for chosen in mask]
            window = LAYERS[layer].window or 100
            places = range(row.length, row.length + row.behind - row.first)
            assert seen == [list(range(max(0, place - window + 1), place + 1)) for place in places]


def contents(store: KvCache, view: MixedView, layer: int, row: int, length: int) -> set[float]:
    """The keys that a canvas attends to."""
    assert view.canvases is not None
    kept = min(length, store.capacities[layer])
    return set(view.canvases.layers[layer].keys[row, 0, :kept, 0].tolist())


def test_a_canvas_sees_what_its_own_pass_appends_and_nothing_that_left_the_window() -> None:
    store = cache()
    append(store, 0, 0, 6)
    append(store, 1, 0, 3)
    view = run(store, NewTokens(slots=(1,), lengths=(3,), counts=(4,)), canvases(6, 7))
    assert contents(store, view, 0, 0, 6) == {3.0, 4.0, 5.0, 6.0}
    assert contents(store, view, 0, 1, 7) == {4.0, 5.0, 6.0, 7.0}
    assert contents(store, view, 1, 1, 7) == {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0}
    assert not store.keys[1][1, 0, 3:].any(), "the slot is written after the pass"


def test_the_next_step_reuses_the_view_that_shows_the_sealed_tokens() -> None:
    store = cache()
    append(store, 0, 0, 6)
    append(store, 1, 0, 3)
    view = run(store, NewTokens(slots=(1, 2), lengths=(3, 0), counts=(4, 9)), canvases(6, 7))
    store.seal(view)
    again = store.canvas_view((0, 1), (6, 7), 4, canvases=(4, 4))
    assert again is view.canvases
    fresh = cache()
    append(fresh, 0, 0, 6)
    append(fresh, 1, 0, 7)
    expected = fresh.canvas_view((0, 1), (6, 7), 4, canvases=(4, 4))
    for mine, theirs in zip(again.layers, expected.layers, strict=True):
        assert set(mine.keys[1].flatten().tolist()) == set(theirs.keys[1].flatten().tolist())


@pytest.mark.parametrize("slot", [0, 1])
def test_a_view_is_made_anew_after_a_pass_that_wrote_to_one_of_its_slots_or_was_never_sealed(slot: int) -> None:
    store = cache()
    append(store, 0, 0, 6)
    append(store, 1, 0, 6)
    first = store.canvas_view((0, 1), (6, 6), 4, canvases=(4, 4))
    run(store, NewTokens(slots=(slot,), lengths=(3,), counts=(3,)), canvases(6, 6))  # raised before it was sealed
    second = store.canvas_view((0, 1), (6, 6), 4, canvases=(4, 4))
    assert second is not first
    append(store, slot, 3, 3)
    assert store.canvas_view((0, 1), (6, 6), 4, canvases=(4, 4)) is not second


def test_tokens_beyond_a_slot_are_refused() -> None:
    with pytest.raises(ValueError, match="5 tokens after 36 exceed the slot size of 40"):
        MixedView(cache(), NewTokens(slots=(0,), lengths=(36,), counts=(5,)))
