"""Measurements that the worker reports while it runs; telemetry turns them into metrics."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from diffusion_worker.types.events import Usage
from diffusion_worker.types.requests import DecodingMode


class BlockStop(StrEnum):
    """Why the denoising of a block ended."""

    STABLE = "stable"
    STEPS = "steps"
    DEADLINE = "deadline"


class Outcome(StrEnum):
    """How a sequence ended."""

    FINISHED = "finished"
    FAULTED = "faulted"
    CANCELLED = "cancelled"
    LOW_CONFIDENCE = "low_confidence"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedWait:
    """Predicted queue wait in seconds: raw (`plain_s`), and corrected by the error of past predictions (`wait_s`)."""

    decoding_mode: DecodingMode
    plain_s: float
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepObserved:
    """One iteration of the engine loop."""

    seconds: float
    rows: int
    constraint_s: float = 0.0  # host time spent on constraints, part of `seconds`


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockObserved:
    """One canvas has been denoised."""

    stop: BlockStop
    denoising_steps: int
    mean_entropy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftObserved:
    """One draft has been verified: its tokens, and how many of them were accepted."""

    drafted: int
    accepted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceObserved:
    """One sequence has ended. Times are seconds since submission; None where it did not get that far."""

    decoding_mode: DecodingMode
    outcome: Outcome
    first_block_s: float | None
    total_s: float
    usage: Usage
    queue_s: float | None = None  # until it was scheduled
    prefill_s: float | None = None  # from scheduling to its first step


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalObserved:
    """One request was rejected; `reason` is the error code."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixObserved:
    """A prefix-cache hit of `tokens` tokens."""

    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionObserved:
    """A running sequence was preempted; it resumes later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitObserved:
    """A queued sequence was scheduled: the wait predicted on its arrival, and the actual one."""

    predicted_s: float
    actual_s: float


class ConstraintWork(StrEnum):
    """Kinds of constraint work."""

    COMPILE = "compile"  # to a token automaton, in the compiler process; cache hits are not counted
    STEP = "step"  # on the host, within a denoising step
    VALIDATE = "validate"  # of a complete response


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintObserved:
    """Work on a constraint has ended, successfully or not."""

    work: ConstraintWork
    seconds: float


class StartPhase(StrEnum):
    """Phases before the worker is ready."""

    LOAD = "load"  # reading the weights
    COMPILE = "compile"  # of kernels, part of the warm-up
    WARM_UP = "warm_up"  # without compiling


@dataclass(frozen=True, slots=True, kw_only=True)
class StartObserved:
    """A phase of the last start has ended."""

    phase: StartPhase
    seconds: float


Observation = (
    StepObserved
    | BlockObserved
    | DraftObserved
    | SequenceObserved
    | RefusalObserved
    | PrefixObserved
    | PreemptionObserved
    | WaitObserved
    | ConstraintObserved
    | StartObserved
)
# Called from the engine's thread or the event loop; must return quickly and must not raise.
Observer = Callable[[Observation], None]
