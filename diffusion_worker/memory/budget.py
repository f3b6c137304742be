"""Bytes of cached contexts, computed from shapes."""

from collections.abc import Sequence

from diffusion_worker.types.model_info import LayerKv


def tokens_kept(layer: LayerKv, tokens: int) -> int:
    """Number of the `tokens` context tokens that a layer caches. A sliding-window layer keeps window - 1, because the
    attending token is itself part of the window."""
    return tokens if layer.window is None else min(layer.window - 1, tokens)


def context_bytes(layers: Sequence[LayerKv], tokens: int, itemsize: int) -> int:
    """Bytes of keys and values of one context of `tokens` tokens."""
    return sum(2 * layer.heads * layer.head_dim * tokens_kept(layer, tokens) for layer in layers) * itemsize
