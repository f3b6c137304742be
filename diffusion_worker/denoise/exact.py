"""Exact mode: constant shapes, which make results bitwise reproducible regardless of batching and preemption.

Floating-point sums depend on how a kernel splits them, which depends on shapes. Every canvas pass therefore has the
same number of rows, padded with dummy canvases over an empty slot, the length of the checkpoint's canvas, and the same
number of context tokens; causal passes run one row at a time. At equal shapes, neither a row's position nor the other
rows matter (measured on CPUs only). Same goal as batch-invariant kernels (He et al. 2025, Thinking Machines Lab),
without custom kernels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from diffusion_worker.denoise.canvas import Canvas
from diffusion_worker.types.step_batch import Denoise


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """Pads canvas passes to a constant number of rows."""

    rows: int

    def fill(self, items: Sequence[Denoise], canvases: Sequence[Canvas]) -> tuple[list[Denoise], list[Canvas]]:
        """Items and canvases of one length, padded with dummies to `rows`."""
        missing = self.rows - len(items)
        item = replace(
            items[0],
            pinned_prefix=(),
            pinned_suffix=(),
            start_ids=(),
            anchor=0.0,
            temperature=None,
            truncation=None,
            penalties=None,
            matcher=None,
            labels=None,
            template=None,
        )
        like = canvases[0]
        canvas = Canvas(
            ids=torch.zeros_like(like.ids),
            soft=torch.zeros_like(like.soft),
            surest=torch.zeros_like(like.surest),
            unchanged=torch.zeros_like(like.unchanged),
            accepted=torch.zeros_like(like.accepted),
        )
        return [*items, *[item] * missing], [*canvases, *[canvas] * missing]
