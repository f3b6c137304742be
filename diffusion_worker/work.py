"""The records between scheduler and step: what one iteration is to do, and what came of it.

Ids and numbers only; the tensors of a sequence stay with whoever steps.
"""

from dataclasses import dataclass

from diffusion_worker.errors import WorkerError
from diffusion_worker.records import Recipe, SequenceId


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """Causal pass over the prompt or a sealed canvas; extends the sequence's context. A prompt is what comes at 0."""

    sequence: SequenceId
    ids: tuple[int, ...]
    at: int  # context length before


@dataclass(frozen=True, slots=True, kw_only=True)
class Denoise:
    """One step of one canvas. `step` counts down from `recipe.steps` to 1; at the first a fresh canvas opens."""

    sequence: SequenceId
    block: int
    step: int
    recipe: Recipe
    seed: int
    temperature: float | None
    start_ids: tuple[int, ...]  # what the fresh canvas starts from; empty: uniform noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Append the ids (the prompt, later the token chosen before) and choose the next token."""

    sequence: SequenceId
    ids: tuple[int, ...]
    at: int  # context length before
    seed: int
    temperature: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One iteration: drop what has ended, then append, denoise and read. A sequence has at most one Denoise or Read."""

    releases: tuple[SequenceId, ...] = ()
    appends: tuple[Append, ...] = ()
    denoises: tuple[Denoise, ...] = ()
    reads: tuple[Read, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasResult:
    """A canvas after one step: the surest token of every position and its log-probability at temperature 1."""

    sequence: SequenceId
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    mean_entropy: float
    accepted: int
    is_settled: bool  # stable and confident: nothing is gained by another step


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenResult:
    """The next token of a sequence read left to right, and its log-probability at temperature 1."""

    sequence: SequenceId
    id: int
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFault:
    """This sequence's part of the step failed; its neighbours are untouched."""

    sequence: SequenceId
    error: WorkerError


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What came of a batch. A sequence of the batch appears in exactly one of the three, or only appended."""

    canvases: tuple[CanvasResult, ...] = ()
    tokens: tuple[TokenResult, ...] = ()
    faults: tuple[RowFault, ...] = ()
