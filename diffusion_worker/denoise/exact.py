"""Shapes that do not depend on who shares a batch: what makes the same request and seed give the same bits.

Sums of floating-point numbers depend on how a kernel splits them, and that depends on shapes. So every canvas pass has
the same number of rows, filled up with canvases that belong to nobody over a slot that holds nothing, and spans the
same number of context tokens; causal passes are done one by one. At equal shapes neither a row's place nor its
neighbours matter (measured on CPUs only). Idea: batch-invariant kernels (He et al. 2025, Thinking Machines Lab), by
constant shapes instead of kernels of our own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from diffusion_worker.denoise.canvas import Canvas
from diffusion_worker.types.step_batch import Denoise


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """The constant number of rows of a canvas pass."""

    rows: int

    def fill(
        self, items: Sequence[Denoise], canvases: Sequence[Canvas], *, dummy_slot: int
    ) -> tuple[list[Denoise], list[Canvas]]:
        """Items and canvases with as many dummies behind them as rows are missing."""
        missing = self.rows - len(items)
        item = replace(
            items[0],
            slot=dummy_slot,
            at=0,
            head=(),
            tail=(),
            start_ids=(),
            anchor=0.0,
            temperature=None,
            matcher=None,
            labels=None,
        )
        like = canvases[0]
        canvas = Canvas(
            ids=torch.zeros_like(like.ids),
            soft=torch.zeros_like(like.soft),
            surest=torch.zeros_like(like.surest),
            unchanged=torch.zeros_like(like.unchanged),
        )
        return [*items, *[item] * missing], [*canvases, *[canvas] * missing]
