"""Bytes of contexts are computed before anything is allocated."""

from diffusion_worker.memory.budget import context_bytes, tokens_kept
from diffusion_worker.types.model_info import LayerKv

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
