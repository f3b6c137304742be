"""Records exchanged by scheduler and stepper: the batch of one iteration, and its results.

Token ids and numbers only; canvases stay with the stepper. `slot` is the sequence's KV-cache slot and `at` the number
of context tokens it holds.
"""

import math
from array import array
from dataclasses import dataclass, field

from diffusion_worker.constraints.inference.labels import Labels
from diffusion_worker.constraints.inference.matcher import Matcher
from diffusion_worker.constraints.inference.template import Probabilities, Template
from diffusion_worker.errors import WorkerError
from diffusion_worker.types.requests import DenoisingParams, Penalties, SequenceId, Truncation


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Copy the first `tokens` tokens of slot `source` to slot `target`."""

    source: int
    target: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefill:
    """Causal pass over a prompt chunk or output; extends the sequence's context. The pass has at least
    `width` positions, so that its shape is that of the Verify that it repeats. `fills`: for a canvas template."""

    sequence: SequenceId
    slot: int
    ids: tuple[int, ...]
    at: int
    is_seal: bool = False  # output, such as a sealed canvas
    width: int = 0
    fills: bool = False
    next_ids: tuple[int, ...] = ()  # the prompt tokens that follow each of `ids`, if their log-probabilities are wanted
    prompt_top: int = 0  # most likely tokens to report with each of them


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class PenaltyInputs:
    """The penalties of a sequence, and the tokens that they count: those of the prompt, and of the output before the
    current canvas or token, each once and with its number of occurrences. All steps of a canvas share one record."""

    penalties: Penalties
    prompt: "array[int]" = field(default_factory=lambda: array("q"))  # ascending; for a repetition penalty
    output: tuple[tuple[int, int], ...] = ()  # (token, occurrences)


@dataclass(frozen=True, slots=True, kw_only=True)
class Denoise:
    """One denoising step of one canvas.

    `step` counts down to 1 from `denoising.steps`, or from fewer where an anchored canvas starts late in the schedule.
    At the first step (`opens`) the canvas is created from `start_ids`, or from uniform noise. `pinned_prefix` and
    `pinned_suffix` are ids pinned at its two ends. `matcher` is the constraint's state before the canvas; with
    `near_deadline` the constrained text must end on this canvas. With `labels`, the completion is one of them;
    with a `template`, the canvas is its text, and its holes are scored.
    """

    sequence: SequenceId
    slot: int
    at: int
    block: int
    step: int
    opens: bool
    denoising: DenoisingParams
    seed: int
    temperature: float | None = None
    truncation: Truncation | None = None
    penalties: PenaltyInputs | None = None
    start_ids: tuple[int, ...] = ()
    anchor: float = 0.0
    pinned_prefix: tuple[int, ...] = ()
    pinned_suffix: tuple[int, ...] = ()
    matcher: Matcher | None = None
    near_deadline: bool = False
    labels: Labels | None = None
    template: Template | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decode:
    """Causal pass over `ids` (the end of the prompt, later the previous token) that chooses the next token, one that
    `matcher` allows."""

    sequence: SequenceId
    slot: int
    ids: tuple[int, ...]
    at: int
    seed: int
    temperature: float | None = None
    truncation: Truncation | None = None
    penalties: PenaltyInputs | None = None
    matcher: Matcher | None = None
    top_logprobs: int = 0
    ends_prompt: bool = False  # `ids` are the end of the prompt
    next_ids: tuple[int, ...] = ()  # see Prefill; the last of `ids` is followed by the answer
    prompt_top: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify:
    """Causal pass over `ids`, tokens of a canvas that are known but not cached yet, and over the draft of those that
    follow. It chooses every next token as Decode does, up to the first one that differs from the draft.

    The draft is the `drafted` tokens of `given`, or, with a `draft`, those of the canvas after that step, in which
    `ids` are pinned. A canvas stays where it is until all its tokens are known, since the model is trained on whole
    canvases after whole canvases. Its tokens are written to the cache then, or when the answer ends: with the
    `closes_with`th new token, or an end token. In exact mode the pass has `width` positions: shapes must not depend on
    how the draft came about.
    """

    sequence: SequenceId
    slot: int
    ids: tuple[int, ...]
    at: int
    seed: int
    drafted: int
    closes_with: int
    draft: Denoise | None = None
    given: tuple[int, ...] = ()
    width: int = 0
    temperature: float | None = None
    truncation: Truncation | None = None
    penalties: PenaltyInputs | None = None
    matcher: Matcher | None = None  # state after `ids`
    top_logprobs: int = 0

    @property
    def count(self) -> int:
        """Tokens of the pass."""
        return len(self.ids) + self.drafted


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One iteration: release ended sequences, copy slots, then prefill, denoise, verify and decode. A sequence has at
    most one Denoise, Verify or Decode. `slots`: new number of cache slots (None: unchanged)."""

    slots: int | None = None
    releases: tuple[SequenceId, ...] = ()
    copies: tuple[Copy, ...] = ()
    prefills: tuple[Prefill, ...] = ()
    denoises: tuple[Denoise, ...] = ()
    verifications: tuple[Verify, ...] = ()
    decodes: tuple[Decode, ...] = ()

    @property
    def rows(self) -> int:
        """Rows that advance an answer: prefills do not count."""
        return len(self.denoises) + len(self.verifications) + len(self.decodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasResult:
    """A canvas after one step: the most likely token of every position and its log-probability at temperature 1."""

    sequence: SequenceId
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    mean_entropy: float
    accepted: int
    stable_prefix: int  # positions from the left whose most likely token is stable; see `denoise.stop`
    has_converged: bool  # stable and confident: denoising may stop
    forced: tuple[bool, ...] = ()  # positions where the constraint allowed one token only; empty: none
    kept: tuple[bool, ...] = ()  # positions that keep their token for the next step; the others are renoised
    labels: tuple[float, ...] = ()  # log-probabilities of the item's labels
    holes: Probabilities = ()  # of the holes of the item's template
    prompt_surprise: float = 0.0  # of the prompt, at the first step; see `types.confidence`
    shares_pass: bool = False  # its pass also read the tokens of the sequence's Prefill

    def unforced(self, count: int) -> list[float]:
        """Log-probabilities of the unforced tokens among the first `count`."""
        scored = enumerate(self.logprobs[:count])
        return [logprob for place, logprob in scored if not any(self.forced[place : place + 1])]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenResult:
    """The next token of an autoregressive sequence, and its log-probability at temperature 1. `top`: the most likely
    tokens with theirs, before all rules, as many as the item asks for."""

    sequence: SequenceId
    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    is_forced: bool = False  # the constraint allowed this token only
    prompt_surprise: float = 0.0  # of the prompt, at the first token; see `types.confidence`


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """The next tokens of a verified sequence, at least one: those that agree with the draft, and the one that follows
    them."""

    sequence: SequenceId
    tokens: tuple[TokenResult, ...]
    cached: int  # tokens of the pass that are in the cache now
    accepted: int  # tokens that agree with the draft

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of the tokens."""
        return tuple(token.id for token in self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptResult:
    """Log-probabilities of the `next_ids` of a Prefill or Decode at position `at`; `values` as in
    `memory.scored_prompt`."""

    sequence: SequenceId
    at: int
    values: "array[float]"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFault:
    """The step failed for this sequence only; its slot was zeroed."""

    sequence: SequenceId
    slot: int
    error: WorkerError


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """Results of a batch. A sequence among `faults` has no other result. `slots`: number of cache slots after a batch
    that changes it; the old number where there was no memory for more."""

    canvases: tuple[CanvasResult, ...] = ()
    tokens: tuple[TokenResult, ...] = ()
    verifications: tuple[VerifyResult, ...] = ()
    prompts: tuple[PromptResult, ...] = ()
    faults: tuple[RowFault, ...] = ()
    constraint_s: float = 0.0  # host time spent on constraints
    slots: int | None = None


def late_start(steps: int, anchor: float) -> int:
    """Steps left in a schedule of `steps` at which an anchored canvas starts: all without an anchor, a third at
    strength 1. A text that is nearly right needs less noise (SDEdit, Meng et al. 2022, arXiv:2108.01073)."""
    return max(1, math.ceil(steps * (1.0 - 2.0 * anchor / 3.0)))
