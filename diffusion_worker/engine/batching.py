"""Selects the work of one iteration within a token budget: prompt chunks, sealed canvases, canvas steps, verifications
and decodes.

Pure function of the running sequences. Canvases at different steps share a batch. A sequence that exceeds the budget
skips this iteration at no cost: it keeps its slot and its canvas.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from diffusion_worker.engine.sequence import Sequence
from diffusion_worker.engine.verified import draftable, has_given_draft, next_verification
from diffusion_worker.types.step_batch import Decode, Denoise, Prefill, Verify


@dataclass(slots=True, kw_only=True)
class BatchItems:
    """The passes of one iteration."""

    prefills: list[Prefill] = field(default_factory=list)
    denoises: list[Denoise] = field(default_factory=list)
    verifications: list[Verify] = field(default_factory=list)
    decodes: list[Decode] = field(default_factory=list)

    def add(self, sequence: Sequence) -> None:
        """Add the next prefill chunk of a sequence and, once its context is complete, its canvas step, verification or
        decode."""
        prefill = sequence.next_prefill()
        if prefill is not None:
            self.prefills.append(prefill)
        if prefill is None and draftable(sequence):
            self.verifications.append(next_verification(sequence))
        elif prefill is None and sequence.is_autoregressive:
            self.decodes.append(sequence.next_decode())
        elif not sequence.is_autoregressive and len(sequence.pending) <= 1:
            self.denoises.append(sequence.next_denoise(prefilled=len(prefill.ids) if prefill else 0))

    def __bool__(self) -> bool:
        return bool(self.prefills or self.denoises or self.verifications or self.decodes)


def compose(running: Iterable[Sequence], priority: Callable[[Sequence], float], budget: int | None) -> BatchItems:
    """Work for as many sequences as `budget` positions allow (None: unlimited), and for at least one.

    Sealed canvases and single tokens come first, because a short pass lets an answer continue; then canvas steps and
    verifications, the lowest `priority` value first. Prefills come last.
    """
    items = BatchItems()
    for sequence in sorted(running, key=lambda each: (_is_prefilling(each), not _is_short(each), priority(each))):
        cost = _cost(sequence)
        if budget is None or cost <= budget or not items:
            items.add(sequence)
            budget = None if budget is None else budget - cost
    return items


def _is_prefilling(sequence: Sequence) -> bool:
    return bool(sequence.pending) and sequence.context < len(sequence.request.prompt_ids)


def _is_short(sequence: Sequence) -> bool:
    """Whether it needs a short causal pass. A verified sequence always has pending tokens, but its pass is as long as a
    canvas step, before which it must not always go."""
    return bool(sequence.pending) and not draftable(sequence)


def _cost(sequence: Sequence) -> int:
    """Positions that the sequence's work passes through the model."""
    prefill = len(sequence.pending[0]) if sequence.pending else 0
    if drafted := draftable(sequence):
        return prefill + drafted + (0 if has_given_draft(sequence) else sequence.request.denoising.canvas_length)
    is_denoising = not sequence.is_autoregressive and len(sequence.pending) <= 1
    return prefill + (sequence.request.denoising.canvas_length if is_denoising else 0)
