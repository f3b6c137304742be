"""Peak memory of a step beside weights and KV cache, computed from shapes.

A step runs its passes one after another, so its peak is that of the largest one. Counted are the tensors that `denoise`
and the layers hold at a time, with fused attention kernels; `tests/worker/denoise/test_step_memory.py` compares the
result with the tensors of real passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from diffusion_worker.memory.budget import context_bytes
from diffusion_worker.types.model_info import LayerKv, StepShape

SAMPLER_BYTES = 5 * 4 << 20  # of temporary fp32 tensors of a row at the peak of `denoise.step`, at most
PADDED_POSITIONS = 512  # of a causal pass whose rows are padded, if it has several
_SAMPLER_COPIES = 4 * 4  # bytes per logit of a smaller vocabulary
QUERY_BLOCK = 512  # queries that a mask of a mixed pass has at most
_POSITION_BYTES = 8 + 2  # while the mask of padded rows is built: a distance as int64, and conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """The largest step: every row holds `context` tokens, seals a canvas and denoises one, and prompts are read."""

    rows: int
    context: int
    canvas_length: int
    max_prefill_tokens: int  # of all rows


def step_bytes(layers: Sequence[LayerKv], shape: StepShape, work: StepWork, itemsize: int) -> int:
    """Peak bytes of a step of a model whose values have `itemsize` bytes."""
    passes = (_mixed_bytes(layers, shape, work, itemsize), _padded_bytes(layers, shape, work, itemsize))
    return max(passes) + shape.unpacked * itemsize


def _mixed_bytes(layers: Sequence[LayerKv], shape: StepShape, work: StepWork, itemsize: int) -> int:
    """A pass over all canvases and all that is prefilled. The contexts of the canvases are copied for all layers, a
    layer's keys or values at a time, with room for the canvases; then the layers run, whose new keys and values are
    held; then the head and the sampler."""
    canvases, read = work.rows * work.canvas_length, min(work.max_prefill_tokens, work.rows * work.context)
    longest = min(read, work.context)  # of a row
    causal = canvases + read
    per_token = sum(2 * layer.heads * layer.head_dim for layer in layers) * itemsize
    contexts = work.rows * context_bytes(layers, work.context, itemsize) + canvases * per_token
    copied = work.rows * max(context_bytes([layer], work.context, itemsize) for layer in layers) // 2
    state = canvases * shape.attention_width * itemsize  # self-conditioning, ids and masks
    mask = min(QUERY_BLOCK, max(longest, work.canvas_length)) * (work.context + QUERY_BLOCK)
    seen = max(context_bytes([layer], work.context + longest, itemsize) for layer in layers)  # of a row at a time
    attention = seen + mask * 2 * itemsize  # the bias that a fused kernel makes of a mask, and pads
    running = mask + max(
        attention + (causal + canvases) * shape.attention_width * itemsize,
        (causal + canvases) * shape.feed_forward_width * itemsize,
    )
    logits = canvases * shape.vocab_size
    sampler = min(work.rows * SAMPLER_BYTES, logits * _SAMPLER_COPIES)
    head = causal * per_token + max(running, logits * itemsize)
    return contexts + state + max(head, logits * itemsize + sampler, copied)


def _padded_bytes(layers: Sequence[LayerKv], shape: StepShape, work: StepWork, itemsize: int) -> int:
    """A causal pass with padded rows: single tokens, and, without a mixed pass, PADDED_POSITIONS. The cached contexts
    are gathered layer by layer, and the new tokens appended."""
    tokens = min(PADDED_POSITIONS, work.context)
    gathered = 2 * work.rows * max(context_bytes([layer], work.context, itemsize) for layer in layers)
    new = sum(2 * layer.heads * layer.head_dim for layer in layers) * tokens * itemsize
    mask = tokens * (work.context + tokens) * max(_POSITION_BYTES, 1 + 2 * itemsize)
    width = max(shape.attention_width, shape.feed_forward_width)
    return gathered + new + mask + tokens * width * itemsize
