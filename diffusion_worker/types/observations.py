"""What the core tells of itself while it works; telemetry counts it. Plain values, as in `records`."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from diffusion_worker.types.generation import BlockStop, DecodingMode, Outcome, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class StepObserved:
    """One iteration of the loop."""

    seconds: float
    rows: int
    constraint_s: float = 0.0  # of it, for constraints


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockObserved:
    """One canvas denoised to its end."""

    stop: BlockStop
    denoising_steps: int
    mean_entropy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceObserved:
    """One sequence ended; times count from submission, None where it did not get that far."""

    decoding_mode: DecodingMode
    outcome: Outcome
    first_block_s: float | None
    total_s: float
    usage: Usage
    queue_s: float | None = None  # until it had a slot
    prefill_s: float | None = None  # from then to the first step


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalObserved:
    """One ask turned away at the door; `reason` is the error's code."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixObserved:
    """A context began with tokens that another one had computed."""

    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionObserved:
    """A running sequence gave up its slot at a step border; it goes on later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitObserved:
    """A sequence that had to wait got its slot: what was predicted when it came, and how long it took."""

    predicted_s: float
    actual_s: float


class ConstraintWork(StrEnum):
    """What is done for a constraint."""

    COMPILE = "compile"  # and lift onto tokens, in a process of its own; not what is recalled
    STEP = "step"  # on the host, within a step
    VALIDATE = "validate"  # a whole answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintObserved:
    """Work on a constraint has ended, well or not."""

    work: ConstraintWork
    seconds: float


Observation = (
    StepObserved
    | BlockObserved
    | SequenceObserved
    | RefusalObserved
    | PrefixObserved
    | PreemptionObserved
    | WaitObserved
    | ConstraintObserved
)
# Called from the engine's thread or the event loop; must be quick and must not raise.
Observer = Callable[[Observation], None]
