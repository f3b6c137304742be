"""The records between scheduler and step: what one iteration is to do, and what came of it.

Ids and numbers only; the tensors of a sequence stay with whoever steps. `slot` is the sequence's place in the cache and
`at` how many context tokens it holds.
"""

import math
from dataclasses import dataclass

from diffusion_worker.constraints.inference.labels import Labels
from diffusion_worker.constraints.inference.matcher import Matcher
from diffusion_worker.errors import WorkerError
from diffusion_worker.types.requests import DenoisingParams, SequenceId


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Let one slot hold the first tokens of another."""

    source: int
    target: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefill:
    """Causal pass over a part of the prompt or a sealed canvas; extends the sequence's context."""

    sequence: SequenceId
    slot: int
    ids: tuple[int, ...]
    at: int
    is_seal: bool = False  # a sealed canvas


@dataclass(frozen=True, slots=True, kw_only=True)
class Denoise:
    """One step of one canvas. `step` counts down to 1 from `denoising.steps`, or from less where an anchored canvas
    begins late in the schedule; at the first (`opens`) it is made, with `start_ids` on it or uniform noise. `head` and
    `tail` are ids pinned at its two ends. `matcher` stands before the canvas; in a hurry the text shall close on it.
    Where there are `labels`, the answer is one of them."""

    sequence: SequenceId
    slot: int
    at: int
    block: int
    step: int
    opens: bool
    denoising: DenoisingParams
    seed: int
    temperature: float | None = None
    start_ids: tuple[int, ...] = ()
    anchor: float = 0.0
    head: tuple[int, ...] = ()
    tail: tuple[int, ...] = ()
    matcher: Matcher | None = None
    near_deadline: bool = False
    labels: Labels | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decode:
    """Append the ids (the last of the prompt, later the token chosen before) and choose the next token, one that
    `matcher` allows."""

    sequence: SequenceId
    slot: int
    ids: tuple[int, ...]
    at: int
    seed: int
    temperature: float | None = None
    matcher: Matcher | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One iteration: forget what has ended, copy, then append, denoise and read. A sequence has at most one Denoise or
    Read. `slots`: how many the cache shall have from now on (None: as many as it has)."""

    slots: int | None = None
    releases: tuple[SequenceId, ...] = ()
    copies: tuple[Copy, ...] = ()
    prefills: tuple[Prefill, ...] = ()
    denoises: tuple[Denoise, ...] = ()
    decodes: tuple[Decode, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasResult:
    """A canvas after one step: the surest token of every position and its log-probability at temperature 1."""

    sequence: SequenceId
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    mean_entropy: float
    accepted: int
    stable_prefix: int  # positions from the left whose surest token has stayed the same, and likely, for some steps
    has_converged: bool  # stable and confident: nothing is gained by another step
    forced: tuple[bool, ...] = ()  # positions at which a constraint left no choice; empty: none
    labels: tuple[float, ...] = ()  # log-probabilities of the item's labels

    def unforced(self, count: int) -> tuple[int, float]:
        """How many of the first `count` tokens were not forced, and their log-probabilities together."""
        scored = enumerate(self.logprobs[:count])
        free = [logprob for place, logprob in scored if not any(self.forced[place : place + 1])]
        return len(free), math.fsum(free)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenResult:
    """The next token of a sequence read left to right, and its log-probability at temperature 1."""

    sequence: SequenceId
    id: int
    logprob: float
    is_forced: bool = False  # a constraint left no choice


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFault:
    """This sequence's part of the step failed, and its slot was wiped; its neighbours are untouched."""

    sequence: SequenceId
    slot: int
    error: WorkerError


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What came of a batch. Whoever is among the faults counts for nothing else."""

    canvases: tuple[CanvasResult, ...] = ()
    tokens: tuple[TokenResult, ...] = ()
    faults: tuple[RowFault, ...] = ()
    constraint_s: float = 0.0  # of it, the host spent so long on constraints


def late_start(steps: int, anchor: float) -> int:
    """Where in a schedule of `steps` a canvas begins that is anchored so strongly: at the top without an anchor, after
    two thirds at strength 1. A text that is nearly right needs no long cooling (SDEdit, arXiv:2108.01073)."""
    return max(1, math.ceil(steps * (1.0 - 2.0 * anchor / 3.0)))
