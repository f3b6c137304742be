"""A queued pass of a step: its rows, and the numbers that the host will need of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from diffusion_worker.constraints.inference.template import Probabilities
from diffusion_worker.denoise.canvas import Canvas
from diffusion_worker.types.step_batch import Decode, Denoise, Prefill, Verify

Item = Prefill | Denoise | Verify | Decode


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedPass:
    """One queued pass: its rows, its report [rows, numbers] on the device, and the canvases it produces. The last
    number of a canvas or a token is the surprise of its prompt. `commit` writes the first tokens of every row, as many
    as it is told, to the cache; None: the pass has written them."""

    items: Sequence[Item]
    report: torch.Tensor
    commit: Callable[[Sequence[int]], None] | None = None
    width: int = 0
    canvases: Sequence[Canvas] = ()
    constraint_s: float = 0.0
    labels: Sequence[tuple[float, ...]] = ()  # per row of a canvas pass
    holes: Sequence[Probabilities] = ()  # likewise
    prompts: torch.Tensor | None = None  # [prompt tokens of all rows, numbers], see `autoregressive.score_prompts`

    @property
    def numbers(self) -> torch.Tensor:
        """All numbers that the host needs: those of the report, then those of the prompts."""
        report = self.report.flatten()
        return report if self.prompts is None else torch.cat([report, self.prompts.flatten()])

    def rows(self, numbers: Sequence[float]) -> Iterator[tuple[Item, Sequence[float], Sequence[float]]]:
        """Every item with its numbers of the report and those of its prompt, from `numbers` on the host."""
        width, at = self.report.shape[1], self.report.numel()
        for row, item in enumerate(self.items):
            behind = at
            if self.prompts is not None and isinstance(item, Prefill | Decode):
                behind += len(item.next_ids) * self.prompts.shape[1]
            yield item, numbers[row * width : (row + 1) * width], numbers[at:behind]
            at = behind
