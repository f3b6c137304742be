"""Selects the work of one iteration within token budgets: prompt chunks, sealed canvases, canvas steps, verifications
and decodes.

Pure function of the running sequences. Canvases at different steps share a batch. A sequence that exceeds a budget
skips this iteration at no cost: it keeps its slot and its canvas. A chunk is cut to what is left of both budgets.
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

    def add(self, sequence: Sequence, prefilled: int) -> None:
        """Add the next `prefilled` pending tokens of a sequence and, once its context is complete, its canvas step,
        verification or decode."""
        prefill = sequence.next_prefill(prefilled)
        if prefill is not None:
            self.prefills.append(prefill)
        if prefill is None and draftable(sequence):
            self.verifications.append(next_verification(sequence))
        elif prefill is None and sequence.is_autoregressive:
            self.decodes.append(sequence.next_decode())
        elif not sequence.is_autoregressive and _completes(sequence, prefilled):
            self.denoises.append(sequence.next_denoise(prefilled=len(prefill.ids) if prefill else 0))

    def __bool__(self) -> bool:
        return bool(self.prefills or self.denoises or self.verifications or self.decodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What an iteration may contain: `positions` of all passes (None: unlimited), among them `prompt_tokens`. With
    `cuts_chunks`, a chunk may be read in parts; otherwise all of it or nothing, and the first one always fits."""

    positions: int | None
    prompt_tokens: int
    cuts_chunks: bool = True


def compose(running: Iterable[Sequence], priority: Callable[[Sequence], float], budget: Budget) -> BatchItems:
    """Work for as many sequences as the budget allows, and for at least one.

    Sealed canvases and single tokens come first, because a short pass lets an answer continue; then canvas steps and
    verifications, the lowest `priority` value first. Prefills come last.
    """
    items = BatchItems()
    positions, prompt_tokens = budget.positions, budget.prompt_tokens
    for sequence in sorted(running, key=lambda each: (_is_prefilling(each), not _is_short(each), priority(each))):
        prefilled = len(sequence.pending[0]) if sequence.pending else 0
        counted = 0 if _is_output(sequence) else prefilled
        if counted and budget.cuts_chunks:
            alone = 0 if items else min(counted, prompt_tokens)
            prefilled = counted = _part(sequence, prompt_tokens, positions) or alone
        cost = _cost(sequence, prefilled)
        fits = counted <= prompt_tokens or prompt_tokens == budget.prompt_tokens
        fits = fits and (positions is None or cost <= positions)
        if (fits or not items) and (prefilled or not sequence.pending):
            items.add(sequence, prefilled)
            prompt_tokens -= min(counted, prompt_tokens)
            positions = None if positions is None else positions - cost
    return items


def _part(sequence: Sequence, prompt_tokens: int, positions: int | None) -> int:
    """Tokens of its next chunk that fit: all but the last if the canvas behind that one does not."""
    whole = len(sequence.pending[0])
    part = min(whole, prompt_tokens)
    if positions is None or _cost(sequence, part) <= positions:
        return part
    return max(0, min(part, positions, whole - 1))


def _is_output(sequence: Sequence) -> bool:
    """Whether its next causal pass is short and reads output: a sealed canvas, or the last token."""
    is_prompt = sequence.context < len(sequence.request.prompt_ids)
    longest = sequence.request.denoising.canvas_length
    return len(sequence.pending) == 1 and not is_prompt and len(sequence.pending[0]) <= longest


def _completes(sequence: Sequence, prefilled: int) -> bool:
    """Whether its context is complete once `prefilled` pending tokens are in the cache."""
    return not sequence.pending or (len(sequence.pending) == 1 and prefilled == len(sequence.pending[0]))


def _is_prefilling(sequence: Sequence) -> bool:
    return bool(sequence.pending) and sequence.context < len(sequence.request.prompt_ids)


def _is_short(sequence: Sequence) -> bool:
    """Whether it needs a short causal pass. A verified sequence always has pending tokens, but its pass is as long as a
    canvas step, before which it must not always go."""
    return bool(sequence.pending) and not draftable(sequence)


def _cost(sequence: Sequence, prefilled: int) -> int:
    """Positions that the sequence's work passes through the model, of which `prefilled` are pending tokens."""
    if drafted := draftable(sequence):
        return prefilled + drafted + (0 if has_given_draft(sequence) else sequence.request.denoising.canvas_length)
    is_denoising = not sequence.is_autoregressive and _completes(sequence, prefilled)
    return prefilled + (sequence.request.denoising.canvas_length if is_denoising else 0)
