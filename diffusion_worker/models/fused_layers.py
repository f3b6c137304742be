"""The library's layers with fewer operations, over the worker's own views of the cache.

Norms are one operation each, rotary embeddings three, and the router sorts logits instead of probabilities. A canvas
writes its keys and values behind the cached context, in a buffer that all steps of a view share, so that nothing is
concatenated; query heads that share a key head are laid out as positions, so that no key is repeated. Weights and
modules are the library's: `generate()` runs its own layers, and tests compare the two.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional as nnf

from diffusion_worker.models.graphs import Graphs

Rotary = tuple[torch.Tensor, torch.Tensor]  # cos and sin [rows, positions, head_dim]
Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # queries, keys and values [rows, positions, heads, head_dim]


def fuse_layers(*stacks: Any) -> None:
    """Let the layers of encoder and decoder run fused over views that declare `runs_fused`."""
    for stack in stacks:
        for layer in stack.layers:
            layer.forward = functools.partial(_forward, layer, layer.forward)


class CompiledDecoder:
    """A decoder pass compiled without a graph break, for any number of context tokens: a graph for a single row, and
    one for several."""

    def __init__(self, decoder: Any) -> None:
        def run(
            canvas: torch.Tensor,
            soft: torch.Tensor,
            positions: torch.Tensor,
            masks: dict[str, torch.Tensor],
            buffers: list[list[torch.Tensor]],
        ) -> torch.Tensor:
            return _decoded(decoder, (canvas, soft, positions), masks, _Buffers(buffers, canvas.shape[1]))

        self._kinds: list[str] = decoder.text_config.layer_types
        self._graphs = Graphs(run, "the canvas passes")

    def __call__(self, canvas: torch.Tensor, soft: torch.Tensor, context: Any) -> torch.Tensor | None:
        """Hidden states [rows, canvas, hidden]; None if the pass cannot be compiled."""
        if canvas.shape[1] == 1:  # graphs of its own
            return None
        buffers = [layer.buffers for layer in context.layers]
        masks = {kind: context.masks[kind] for kind in self._kinds}
        for kind, (keys, _) in zip(self._kinds, buffers, strict=True):
            if masks[kind] is None:  # a graph of its own
                masks[kind] = torch.ones(len(canvas), 1, 1, keys.shape[2], dtype=torch.bool, device=canvas.device)
        hidden: torch.Tensor | None = self._graphs.run(len(canvas) > 1, canvas, soft, context.positions, masks, buffers)
        return hidden


class _Buffers:
    """Keys and values of context and canvas by layer, see `CanvasContext.joined`."""

    def __init__(self, buffers: list[list[torch.Tensor]], canvas: int) -> None:
        self._buffers, self._canvas = buffers, canvas

    def joined(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> list[torch.Tensor]:
        """See `CanvasContext.joined`."""
        for buffer, new in zip(self._buffers[layer], (keys, values), strict=True):
            buffer[:, :, buffer.shape[2] - self._canvas :] = new
        return self._buffers[layer]


def _decoded(
    decoder: Any,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    masks: Mapping[str, torch.Tensor],
    cache: Any,
) -> torch.Tensor:
    """The library's decoder over (ids, self-conditioning, positions), layer by layer."""
    canvas, soft, positions = inputs
    hidden = conditioned(decoder.self_conditioning, decoder.embed_tokens(canvas), soft)
    kinds = decoder.text_config.layer_types
    rotary = {kind: decoder.rotary_emb(hidden, positions, kind) for kind in sorted(set(kinds))}
    for layer, kind in zip(decoder.layers, kinds, strict=True):
        hidden = _layer(layer, hidden, rotary[kind], masks[kind], cache)
    return norm(decoder.norm, hidden)


def conditioned(module: Any, embeddings: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
    """The self-conditioning of canvases: their embeddings with those of the last step."""
    normed = norm(module.pre_norm, soft)
    signal = module.down_proj(module.act_fn(module.gate_proj(normed)) * module.up_proj(normed))
    return norm(module.post_norm, embeddings + signal)


def _forward(layer: Any, library: Any, hidden_states: torch.Tensor, **arguments: Any) -> torch.Tensor:
    cache = arguments.get("cache")
    if not getattr(cache, "runs_fused", False):
        found: torch.Tensor = library(hidden_states, **arguments)
        return found
    return _layer(layer, hidden_states, arguments["position_embeddings"], arguments["attention_mask"], cache)


def _layer(layer: Any, hidden: torch.Tensor, rotary: Rotary, mask: torch.Tensor | None, cache: Any) -> torch.Tensor:
    attend = _attend_in_prefill if hasattr(cache, "update") else attend_in_canvas
    unscaled = layer_without_scalar(layer, hidden, rotary, lambda heads: attend(layer.self_attn, heads, mask, cache))
    return unscaled.mul_(layer.layer_scalar)


def layer_without_scalar(
    layer: Any, hidden: torch.Tensor, rotary: Rotary, attend: Callable[[Heads], torch.Tensor]
) -> torch.Tensor:
    """A layer of encoder or decoder, before the multiplication by its scalar; `attend` returns what the queries attend
    to [rows, positions, heads, head_dim]."""
    attended = _attention(layer.self_attn, norm(layer.input_layernorm, hidden), rotary, attend)
    hidden = hidden + norm(layer.post_attention_layernorm, attended)
    dense = layer.mlp(norm(layer.pre_feedforward_layernorm, hidden))
    tokens = hidden.reshape(-1, hidden.shape[-1])
    index, weights = _routed(layer.router, tokens)
    mixed = layer.experts(norm(layer.pre_feedforward_layernorm_2, tokens), index, weights).reshape(hidden.shape)
    both = norm(layer.post_feedforward_layernorm_1, dense) + norm(layer.post_feedforward_layernorm_2, mixed)
    return hidden + norm(layer.post_feedforward_layernorm, both)


def norm(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    """RMS norm over the last dimension, in fp32 inside. In fp64 the library's own, which rounds to fp32: tests compare
    canvases at every step."""
    if hidden.dtype == torch.float64:
        exact: torch.Tensor = module(hidden)
        return exact
    weight = module.weight if module.with_scale else None
    return nnf.rms_norm(hidden, hidden.shape[-1:], weight, module.eps)


def _attention(
    attn: Any, hidden: torch.Tensor, rotary: Rotary, attend: Callable[[Heads], torch.Tensor]
) -> torch.Tensor:
    shape = (*hidden.shape[:-1], -1, attn.head_dim)
    cos, sin = (each[:, :, None] for each in rotary)
    queries = _rotated(norm(attn.q_norm, attn.q_proj(hidden).view(shape)), cos, sin)
    keys = attn.k_proj(hidden).view(shape)
    values = norm(attn.v_norm, keys if attn.v_proj is None else attn.v_proj(hidden).view(shape))
    keys = _rotated(norm(attn.k_norm, keys), cos, sin)
    out: torch.Tensor = attn.o_proj(attend((queries, keys, values)).reshape(*hidden.shape[:-1], -1))
    return out


def _rotated(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of heads [rows, positions, heads, head_dim]: the halves (a, b) become
    (a cos - b sin, b cos + a sin)."""
    half = heads.shape[-1] // 2
    out = heads * cos
    out[..., :half].addcmul_(heads[..., half:], sin[..., :half], value=-1.0)
    out[..., half:].addcmul_(heads[..., :half], sin[..., half:])
    return out


def attend_in_canvas(attn: Any, heads: Heads, mask: torch.Tensor | None, cache: Any) -> torch.Tensor:
    """[rows, canvas, heads, head_dim]."""
    queries, *new = heads
    keys, values = cache.joined(attn.layer_idx, *(each.transpose(1, 2) for each in new))
    return _attend_to_all(attn, queries, keys, values, mask)


def _attend_to_all(
    attn: Any, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """[rows, positions, heads, head_dim]. All positions of a row attend to the same keys, so that the query heads of a
    group are like further positions."""
    rows, positions, count, width = queries.shape
    groups = attn.num_key_value_groups
    packed = queries.view(rows, positions, count // groups, groups, width).permute(0, 2, 3, 1, 4)
    packed = packed.reshape(rows, count // groups, groups * positions, width)
    out = nnf.scaled_dot_product_attention(packed, keys, values, attn_mask=mask, scale=attn.scaling)
    return out.view(rows, count // groups, groups, positions, width).permute(0, 3, 1, 2, 4)


def _attend_in_prefill(attn: Any, heads: Heads, mask: torch.Tensor | None, cache: Any) -> torch.Tensor:
    """[rows, new, heads, head_dim]; several tokens of a row attend to different keys."""
    queries = heads[0]
    keys, values = cache.update(*(each.transpose(1, 2) for each in heads[1:]), attn.layer_idx)
    if queries.shape[1] == 1 or mask is None:
        return _attend_to_all(attn, queries, keys, values, mask)
    rows = zip(queries, keys, values, mask[:, 0], strict=True)
    return torch.stack([attend_in_row(attn, *row) for row in rows])


def attend_in_row(
    attn: Any,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    is_causal: bool = False,
) -> torch.Tensor:
    """[tokens, heads, head_dim] for queries of this shape and keys [key heads, seen tokens, head_dim] of one row; key
    heads are repeated as views. `mask` [tokens, seen tokens]."""
    groups = attn.num_key_value_groups
    queries = queries.view(len(queries), -1, groups, queries.shape[-1]).permute(1, 2, 0, 3)
    keys, values = (each[:, None].expand(-1, groups, -1, -1) for each in (keys, values))
    out = nnf.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=is_causal, scale=attn.scaling
    )
    return out.permute(2, 0, 1, 3).flatten(1, 2)


def _routed(router: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(index, weights) [tokens, top k] of the experts of each token. A softmax over the chosen logits is that over all
    logits, renormalised. A single expert has no choice."""
    if router.config.num_experts == 1:
        one = torch.ones(1, 1, dtype=torch.float32, device=tokens.device) * router.per_expert_scale
        return torch.zeros(len(tokens), 1, dtype=torch.long, device=tokens.device), one.expand(len(tokens), 1)
    if tokens.dtype == torch.float64:  # as in `norm`
        _, weights, index = router(tokens)
        return index, weights
    logits = router.proj(norm(router.norm, tokens) * router.scale) * router.scalar_root_size
    chosen, index = logits.topk(router.config.top_k_experts, dim=-1)
    return index, chosen.softmax(-1, dtype=torch.float32) * router.per_expert_scale[index]
