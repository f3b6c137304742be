"""What the worker needs from a model: one causal pass that extends the context, one bidirectional pass over canvases.

Knows tensors, not weights: the rows of one call may belong to different requests with different context lengths.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from diffusion_worker.types.model_info import LayerKv, ModelInfo

FULL, SLIDING = "full_attention", "sliding_attention"  # the two kinds of layer, keys of every mask mapping


class LayerContext(Protocol):
    """Keys and values of one layer that canvas rows may read: [rows, heads, tokens, head_dim]."""

    @property
    def keys(self) -> torch.Tensor: ...

    @property
    def values(self) -> torch.Tensor: ...


class CanvasContext(Protocol):
    """Read-only context of several rows. Shapes: `positions` [rows, canvas]; `masks`, True = attend, by kind of layer
    [rows, 1, 1, tokens + canvas], or None where no row has padding."""

    @property
    def layers(self) -> Sequence[LayerContext]: ...

    @property
    def positions(self) -> torch.Tensor: ...

    @property
    def masks(self) -> Mapping[str, torch.Tensor | None]: ...


class PrefillContext(Protocol):
    """Context being extended by a ragged batch of new tokens, padded on the right. Shapes: `positions` [rows, new];
    `masks`, True = attend, by kind of layer [rows, 1, new, tokens + new], or None where all is seen."""

    @property
    def positions(self) -> torch.Tensor: ...

    @property
    def masks(self) -> Mapping[str, torch.Tensor | None]: ...

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, **_attention: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the new tokens' [rows, heads, new, head_dim]; return what the layer attends over. transformers also
        passes the attention's keyword arguments, which are not used."""
        ...


class DiffusionModel(Protocol):
    """Weights and their two passes. Not thread-safe: one thread owns a model."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def kv_layers(self) -> tuple[LayerKv, ...]: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def encode(self, ids: torch.Tensor, context: PrefillContext) -> torch.Tensor:
        """Causal pass over [rows, new] ids; extends `context`, returns hidden states [rows, new, hidden]."""
        ...

    def denoise(self, canvas: torch.Tensor, soft: torch.Tensor, context: CanvasContext) -> torch.Tensor:
        """Bidirectional pass over [rows, canvas] ids with self-conditioning [rows, canvas, hidden] (zeros at a first
        step); returns fp32 logits [rows, canvas, vocab]."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states [..., hidden] of the causal pass to fp32 logits [..., vocab] of the token that follows."""
        ...

    def soften(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Mean embeddings [rows, canvas, hidden] under [rows, canvas, vocab]: what a step tells the next."""
        ...
