"""One pass over causal tokens and canvases: each weight is read once for both.

The tokens of all rows form one sequence: those of prompts, sealed canvases and drafts first, without padding, then all
canvases. Norms, projections and experts run over the whole sequence, attention row by row for causal tokens and over
all canvases together. A token goes through the embeddings, the layer scalars and the last norm of its own side; all
other weights are those that encoder and decoder share. Parity with the library's classes is tested.
"""

from collections.abc import Callable
from typing import Any

import torch

from diffusion_worker.models.fused_layers import (
    Heads,
    attend_in_canvas,
    attend_in_row,
    conditioned,
    layer_without_scalar,
    norm,
)
from diffusion_worker.models.interface import CausalRow, MixedContext
from diffusion_worker.models.packed import Packed

_SCALAR = "layer_scalar"


def shares_layers(encoder: Any, decoder: Any) -> bool:
    """Whether every layer of both sides has the same weights, on one device; only the scalars may differ."""
    devices = {weight.device for weight in decoder.parameters()}
    return len(devices) == 1 and all(
        _weights(causal) == _weights(canvas) for causal, canvas in zip(encoder.layers, decoder.layers, strict=True)
    )


def _weights(layer: Any) -> dict[str, int]:
    """The identity of every tensor of a layer, packed ones included; modules with hooks differ from all others."""
    found: dict[str, int] = {}
    for path, module in layer.named_modules():
        held = {
            name: value for name, value in (*module._parameters.items(), *module._buffers.items()) if name != _SCALAR
        }
        found |= {f"{path}.{name}": id(value) for name, value in held.items() if value is not None}
        found |= {f"{path}.{name}": id(each.data) for name, each in vars(module).items() if isinstance(each, Packed)}
        if hasattr(module, "_hf_hook"):
            found[path] = id(module)
    return found


class MixedPass:
    """The pass of a model whose encoder and decoder share their layers, see `shares_layers`."""

    def __init__(self, encoder: Any, decoder: Any, head: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._encoder, self._decoder, self._head = encoder, decoder, head

    def __call__(
        self, ids: torch.Tensor, canvas: torch.Tensor | None, soft: torch.Tensor | None, context: MixedContext
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `interface.MixedPass`."""
        encoder, decoder, count = self._encoder, self._decoder, len(ids)
        hidden = encoder.embed_tokens(ids)[None]
        if canvas is not None and soft is not None:
            own = conditioned(decoder.self_conditioning, decoder.embed_tokens(canvas), soft)
            hidden = torch.cat([hidden, own.reshape(1, -1, own.shape[-1])], dim=1)
        kinds = decoder.text_config.layer_types
        rotary = {kind: decoder.rotary_emb(hidden, context.positions, kind) for kind in sorted(set(kinds))}
        for causal, layer, kind in zip(encoder.layers, decoder.layers, kinds, strict=True):
            hidden = layer_without_scalar(layer, hidden, rotary[kind], _Attention(layer.self_attn, kind, context))
            hidden[:, :count].mul_(causal.layer_scalar)
            if canvas is not None:
                hidden[:, count:].mul_(layer.layer_scalar)
        read = norm(encoder.norm, hidden[0, :count])
        if canvas is None:
            return read, None
        return read, self._head(norm(decoder.norm, hidden[0, count:].view(*canvas.shape, -1)))


class _Attention:
    """The attention of one layer over the heads of a whole pass [1, tokens, heads, head_dim]."""

    def __init__(self, attn: Any, kind: str, context: MixedContext) -> None:
        self._attn, self._kind, self._context = attn, kind, context

    def __call__(self, heads: Heads) -> torch.Tensor:
        """What each query attends to [1, tokens, heads, head_dim]."""
        context, count = self._context, self._context.tokens
        queries, keys, values = (each[0] for each in heads)
        context.hold(self._attn.layer_idx, keys[:count], values[:count])
        parts = [part for row in context.rows for part in self._causal(row, queries[row.first : row.behind])]
        if context.canvases is not None:
            shape, mask = context.canvases.positions.shape, context.canvases.masks[self._kind]
            queries, keys, values = (each[count:].view(*shape, *each.shape[1:]) for each in (queries, keys, values))
            out = attend_in_canvas(self._attn, (queries, keys, values), mask, context.canvases)
            parts.append(out.reshape(-1, *queries.shape[2:]))
        return torch.cat(parts)[None]

    def _causal(self, row: CausalRow, queries: torch.Tensor) -> list[torch.Tensor]:
        """The parts [tokens, heads, head_dim] of a row, block by block: no mask is larger than a block of queries."""
        keys, values = self._context.seen(row, self._attn.layer_idx)
        return [
            attend_in_row(
                self._attn,
                queries[block.first : block.behind],
                keys[:, block.seen],
                values[:, block.seen],
                block.mask,
                is_causal=block.is_causal,
            )
            for block in row.blocks[self._kind]
        ]
