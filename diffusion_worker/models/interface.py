"""The model interface: a causal pass that extends the context, and a bidirectional pass over canvases.

The rows of one call may belong to different requests with different context lengths.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from diffusion_worker.types.model_info import LayerKv, ModelInfo

FULL, SLIDING = "full_attention", "sliding_attention"  # the two layer types, keys of every mask mapping


def capped(raw: torch.Tensor, cap: float) -> torch.Tensor:
    """fp32 logits from those that an output head gives, after its soft cap (0.0: none); the operations of the library's
    head in its order."""
    raw = raw.to(torch.float32)
    return torch.tanh(raw / cap) * cap if cap else raw


class LayerContext(Protocol):
    """Cached keys and values of one layer, for canvas rows: [rows, heads, tokens, head_dim]."""

    @property
    def keys(self) -> torch.Tensor: ...

    @property
    def values(self) -> torch.Tensor: ...


class CanvasContext(Protocol):
    """Read-only context of several rows. Shapes: `positions` [rows, canvas]; `masks` (True = attend) by layer type
    [rows, 1, 1, tokens + canvas], or None where no row has padding."""

    @property
    def layers(self) -> Sequence[LayerContext]: ...

    @property
    def positions(self) -> torch.Tensor: ...

    @property
    def masks(self) -> Mapping[str, torch.Tensor | None]: ...


class PrefillContext(Protocol):
    """Context extended by a ragged batch of new tokens, padded on the right. Shapes: `positions` [rows, new]; `masks`
    (True = attend) by layer type [rows, 1, new, tokens + new], or None where every token attends to all."""

    @property
    def positions(self) -> torch.Tensor: ...

    @property
    def masks(self) -> Mapping[str, torch.Tensor | None]: ...

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, **_attention: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take keys and values of the new tokens [rows, heads, new, head_dim]; return those that the layer attends to.
        transformers also passes attention arguments, which are not used."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class QueryBlock:
    """Some new tokens of a row, from `first` on and before `behind`, and the part of its keys that they attend to: all,
    or those that `mask` [tokens, keys] selects (True = attend), or, if `is_causal`, token i the first i + 1."""

    first: int
    behind: int
    seen: slice
    mask: torch.Tensor | None
    is_causal: bool


@dataclass(frozen=True, slots=True, eq=False)
class CausalRow:
    """The new tokens of one context in a mixed pass, from `first` on and before `behind`; their blocks by layer
    type."""

    slot: int
    length: int  # cached tokens before them
    first: int
    behind: int
    blocks: Mapping[str, Sequence[QueryBlock]]


class MixedContext(Protocol):
    """The contexts of a mixed pass. `positions` [1, tokens of causal rows, then of all canvases]. A canvas attends to
    what the same pass appends to its context."""

    @property
    def tokens(self) -> int:
        """Tokens of all causal rows."""
        ...

    @property
    def positions(self) -> torch.Tensor: ...

    @property
    def rows(self) -> Sequence[CausalRow]: ...

    @property
    def canvases(self) -> CanvasContext | None: ...

    def hold(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Take keys and values [tokens, heads, head_dim] of all causal rows."""
        ...

    def seen(self, row: CausalRow, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [heads, cached and new tokens, head_dim] of a row in the order of their positions."""
        ...


class MixedPass(Protocol):
    """A pass over causal rows and canvases."""

    def __call__(
        self, ids: torch.Tensor, canvas: torch.Tensor | None, soft: torch.Tensor | None, context: MixedContext
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Hidden states [tokens, hidden] of the causal ids [tokens], as of `DiffusionModel.encode`, and the logits of
        the canvases, if there are any, as of `DiffusionModel.denoise`."""
        ...


class DiffusionModel(Protocol):
    """A loaded model. Not thread-safe: one thread owns it."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def kv_layers(self) -> tuple[LayerKv, ...]: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def for_templates(self) -> "DiffusionModel":
        """The model that fills canvas templates: itself, or one of the same shape with weights of its own for that. It
        reads no context of the other one's."""
        ...

    @property
    def is_compiled(self) -> bool:
        """Whether passes are compiled when they are first met, which takes long."""
        ...

    @property
    def mixed_pass(self) -> MixedPass | None:
        """One pass in place of `encode` and `denoise`; None if the model has none."""
        ...

    def encode(self, ids: torch.Tensor, context: PrefillContext) -> torch.Tensor:
        """Causal pass over ids [rows, new]; extends `context` and returns hidden states [rows, new, hidden]."""
        ...

    def denoise(self, canvas: torch.Tensor, soft: torch.Tensor, context: CanvasContext) -> torch.Tensor:
        """Bidirectional pass over ids [rows, canvas] with self-conditioning [rows, canvas, hidden] (zeros at the first
        step); returns logits [rows, canvas, vocab] as the head gives them, see `capped` and `ModelInfo.logit_cap`. The
        caller may overwrite them."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """fp32 logits [..., vocab] of the next token from hidden states [..., hidden] of the causal pass."""
        ...

    def prompt_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """As `logits`, for tokens of a prompt: some checkpoints have a head of their own for them."""
        ...

    def soften(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Mean embeddings [rows, canvas, hidden] under probabilities [rows, canvas, vocab]: the next
        self-conditioning."""
        ...
