"""What one iteration is made of: parts of prompts, sealed canvases, canvas steps and reads, within a budget.

Pure function of sequences that have a slot. Batches are never keyed by step: whoever fits, advances. Who does not fit
is parked for this iteration at no cost; its slot and its canvas stay as they are.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from diffusion_worker.engine.sequence import Sequence
from diffusion_worker.types.step_batch import Decode, Denoise, Prefill


@dataclass(slots=True, kw_only=True)
class Parts:
    """The passes of an iteration."""

    prefills: list[Prefill] = field(default_factory=list)
    denoises: list[Denoise] = field(default_factory=list)
    decodes: list[Decode] = field(default_factory=list)

    def take(self, sequence: Sequence) -> None:
        """The part of one sequence: a portion of its context, and a step as soon as the context is complete."""
        prefill = sequence.next_prefill()
        if prefill is not None:
            self.prefills.append(prefill)
        if prefill is None and sequence.is_autoregressive:
            self.decodes.append(sequence.next_decode())
        elif not sequence.is_autoregressive and len(sequence.pending) <= 1:
            self.denoises.append(sequence.next_denoise(prefilled=len(prefill.ids) if prefill else 0))

    def __bool__(self) -> bool:
        return bool(self.prefills or self.denoises or self.decodes)


def compose(running: Iterable[Sequence], key: Callable[[Sequence], float], budget: int | None) -> Parts:
    """Parts of as many sequences as a budget of positions allows, at least of one. Sealed canvases first (a short pass
    lets a whole canvas go on), then the lowest key; prompts that are being read in come last."""
    parts = Parts()
    for sequence in sorted(running, key=lambda each: (_is_prefilling(each), not each.pending, key(each))):
        cost = _cost(sequence)
        if budget is None or cost <= budget or not parts:
            parts.take(sequence)
            budget = None if budget is None else budget - cost
    return parts


def _is_prefilling(sequence: Sequence) -> bool:
    return bool(sequence.pending) and sequence.context < len(sequence.request.prompt_ids)


def _cost(sequence: Sequence) -> int:
    """Positions that its part passes through the net."""
    ahead = len(sequence.pending[0]) if sequence.pending else 0
    is_denoising = not sequence.is_autoregressive and len(sequence.pending) <= 1
    return ahead + (sequence.request.denoising.canvas_length if is_denoising else 0)
