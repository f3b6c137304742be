"""One pass over causal tokens and canvases: each weight is read once for both.

The tokens of all rows form one sequence: those of prompts, sealed canvases and drafts first, without padding, then all
canvases. Norms, projections and experts run over the whole sequence, attention row by row for causal tokens and over
all canvases together. A token goes through the embeddings, the layer scalars and the last norm of its own side; all
other weights are those that encoder and decoder share. Parity with the library's classes is tested.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
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
from diffusion_worker.models.graphs import Graphs
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
        self._graphs: Graphs | None = None

    def compile(self) -> None:
        """Compile everything but the attention: a graph with canvases and one without, each for any number of
        tokens."""

        def run(*inputs: torch.Tensor | None) -> list[torch.Tensor]:
            return self._hidden(inputs, lambda layer, heads: _attend_in_pass(*heads, layer))

        self._graphs = Graphs(run, "the passes over prompts and canvases", has_single=True)

    def __call__(
        self, ids: torch.Tensor, canvas: torch.Tensor | None, soft: torch.Tensor | None, context: MixedContext
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `interface.MixedPass`."""
        kinds = self._decoder.text_config.layer_types
        layers = zip(self._decoder.layers, kinds, strict=True)
        attention = [_Attention(layer.self_attn, kind, context) for layer, kind in layers]
        flat = (None, None) if canvas is None or soft is None else (canvas.reshape(-1), soft.flatten(0, 1))
        inputs, found = (ids, *flat, context.positions), None
        if self._graphs is not None:
            with _current(attention):
                found = self._graphs.run(canvas is None, *inputs)
        states = found or self._hidden(inputs, lambda layer, heads: attention[layer](heads))
        return states[0], None if canvas is None else self._head(states[1].view(*canvas.shape, -1))

    def _hidden(
        self, inputs: Sequence[torch.Tensor | None], attend: Callable[[int, Heads], torch.Tensor]
    ) -> list[torch.Tensor]:
        """Hidden states [tokens, hidden] of the causal tokens, and of those of all canvases, if there are any. Inputs:
        causal ids [tokens], ids and self-conditioning of all canvases [tokens, ...], and the positions of all."""
        ids, canvas, soft, positions = inputs
        assert ids is not None
        encoder, decoder, count = self._encoder, self._decoder, len(ids)
        hidden = encoder.embed_tokens(ids)
        if canvas is not None and soft is not None:
            own = conditioned(decoder.self_conditioning, decoder.embed_tokens(canvas), soft)
            hidden = torch.cat([hidden, own])
        is_causal = torch.arange(len(hidden), device=hidden.device)[:, None] < count
        hidden, kinds = hidden[None], decoder.text_config.layer_types
        rotary = {kind: decoder.rotary_emb(hidden, positions, kind) for kind in sorted(set(kinds))}
        for index, (causal, layer) in enumerate(zip(encoder.layers, decoder.layers, strict=True)):
            hidden = layer_without_scalar(layer, hidden, rotary[kinds[index]], functools.partial(attend, index))
            scalar = causal.layer_scalar
            hidden.mul_(scalar if canvas is None else torch.where(is_causal, scalar, layer.layer_scalar))
        read = norm(encoder.norm, hidden[0, :count])
        return [read] if canvas is None else [read, norm(decoder.norm, hidden[0, count:])]


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


_running = threading.local()  # .attention: that of the layers of the compiled pass that this thread runs


@contextlib.contextmanager
def _current(attention: Sequence[_Attention]) -> Iterator[None]:
    _running.attention = attention
    try:
        yield
    finally:
        del _running.attention


@torch.library.custom_op("twolane::attend_in_pass", mutates_args=())
def _attend_in_pass(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layer: int) -> torch.Tensor:
    """The attention of a compiled pass, which is no part of its graph: it depends on the length of each row."""
    attended: torch.Tensor = _running.attention[layer]((queries, keys, values))
    return attended


@_attend_in_pass.register_fake
def _like_queries(queries: torch.Tensor, _keys: torch.Tensor, _values: torch.Tensor, _layer: int) -> torch.Tensor:
    return torch.empty_like(queries, memory_format=torch.contiguous_format)
