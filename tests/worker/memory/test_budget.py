"""What fits is known by arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.errors import BadSetting
from diffusion_worker.memory.budget import context_bytes, fit_slots, tokens_kept
from diffusion_worker.records import LayerKv

FULL = LayerKv(heads=2, head_dim=512, window=None)
SLIDING = LayerKv(heads=8, head_dim=256, window=1024)
RELEASED = (FULL,) * 5 + (SLIDING,) * 25  # the released checkpoint of 26 billion parameters


def test_a_sliding_layer_keeps_one_less_than_its_window() -> None:
    assert tokens_kept(SLIDING, 8192) == 1023
    assert tokens_kept(SLIDING, 100) == 100
    assert tokens_kept(FULL, 8192) == 8192


def test_the_released_checkpoint_needs_20_kib_a_token_and_a_capped_ring() -> None:
    assert context_bytes(RELEASED, 1, 2) - context_bytes(RELEASED, 0, 2) == 20_480 + 204_800
    assert context_bytes(RELEASED, 8192, 2) == 20_480 * 8192 + 204_800 * 1023


@given(wanted=st.integers(1, 64), slot=st.integers(1, 10**9), free=st.integers(1, 10**11))
def test_slots_never_exceed_what_is_wanted_or_what_is_free(wanted: int, slot: int, free: int) -> None:
    if slot > free:
        with pytest.raises(BadSetting):
            fit_slots(wanted, slot_bytes=slot, free_bytes=free)
        return
    slots = fit_slots(wanted, slot_bytes=slot, free_bytes=free)
    assert 1 <= slots <= wanted
    assert slots * slot <= free
    assert slots == wanted or (slots + 1) * slot > free


def test_weights_larger_than_the_limit_are_refused_in_words() -> None:
    with pytest.raises(BadSetting, match="leaves 0 bytes beside the weights"):
        fit_slots(8, slot_bytes=100, free_bytes=-5)
