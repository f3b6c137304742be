"""Peak memory of a step beside weights and KV cache, computed from shapes.

A step runs its passes one after another, so its peak is that of the largest one. Counted are the tensors that `denoise`
and transformers' layers hold at a time, with fused attention kernels; `tests/worker/denoise/test_step_memory.py`
compares the result with the tensors of real passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from diffusion_worker.memory.budget import context_bytes, tokens_kept
from diffusion_worker.types.model_info import LayerKv, StepShape

SAMPLER_BYTES = 5 * 4 << 20  # of temporary fp32 tensors of a row at the peak of `denoise.step`, at most
PADDED_POSITIONS = 512  # of a causal pass whose rows are padded, if it has several
_SAMPLER_COPIES = 4 * 4  # bytes per logit of a smaller vocabulary
_POSITION_BYTES = 8 + 2  # while a mask is built: a distance as int64, and conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """The largest step: every row holds `context` tokens, and prefills a chunk or denoises a canvas."""

    rows: int
    context: int
    canvas_length: int
    prefill_chunk: int


def step_bytes(layers: Sequence[LayerKv], shape: StepShape, work: StepWork, itemsize: int) -> int:
    """Peak bytes of a step of a model whose values have `itemsize` bytes."""
    row = max(_canvas_bytes(layers, shape, work, itemsize), _prefill_bytes(layers, shape, work, itemsize))
    return work.rows * row + shape.unpacked * itemsize


def _canvas_bytes(layers: Sequence[LayerKv], shape: StepShape, work: StepWork, itemsize: int) -> int:
    """A row of a canvas step: its cached context is copied for all layers, with room for the canvas, a layer's keys or
    values at a time; then the layers run, then the sampler."""
    context = context_bytes(layers, work.context, itemsize)
    room = sum(2 * layer.heads * layer.head_dim for layer in layers) * work.canvas_length * itemsize
    gathered = max(context_bytes([layer], work.context, itemsize) for layer in layers) // 2
    layers_bytes = _layer_bytes(0, shape, work.canvas_length, itemsize)
    logits = work.canvas_length * shape.vocab_size
    sampler = logits * itemsize + min(SAMPLER_BYTES, logits * _SAMPLER_COPIES)
    state = work.canvas_length * shape.attention_width * itemsize  # self-conditioning, ids and masks
    return context + room + state + max(layers_bytes, sampler, gathered)


def _prefill_bytes(layers: Sequence[LayerKv], shape: StepShape, work: StepWork, itemsize: int) -> int:
    """A row of a prefill: cached context is gathered per layer; the new keys and values of all layers are held until
    the pass has finished."""
    chunk = min(work.prefill_chunk, work.context)
    attention = max(
        _attention_bytes(layer, shape, tokens_kept(layer, work.context) + chunk, itemsize)
        + context_bytes([layer], work.context, itemsize)
        for layer in layers
    )
    new = sum(2 * layer.heads * layer.head_dim for layer in layers) * chunk * itemsize
    seen = max(tokens_kept(layer, work.context) for layer in layers) + chunk
    mask = chunk * seen * (1 + 2 * itemsize)  # conditions, and the bias that a fused kernel makes of them and pads
    layers_bytes = _layer_bytes(attention, shape, chunk, itemsize) + new + mask
    return max(layers_bytes, chunk * seen * _POSITION_BYTES)


def _layer_bytes(attention: int, shape: StepShape, tokens: int, itemsize: int) -> int:
    """A layer over `tokens` tokens: its attention, then its feed-forward part."""
    return max(
        attention + tokens * shape.attention_width * itemsize,
        tokens * shape.feed_forward_width * itemsize,
    )


def _attention_bytes(layer: LayerKv, shape: StepShape, tokens: int, itemsize: int) -> int:
    """Keys and values of `tokens` tokens: concatenated, and repeated for every query head."""
    repeated = shape.query_heads if shape.query_heads > layer.heads else 0
    return 2 * (layer.heads + repeated) * layer.head_dim * tokens * itemsize
