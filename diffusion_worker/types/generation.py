"""The records that cross the worker's borders: asks and events (web, engine), facts and observations.

Plain values only: ids, numbers and the cursor of a constraint, no text, no tensors, no clock. Times are seconds,
entropies are nats.
"""

import math
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum

from diffusion_worker.constraints.inference.labels import Labels
from diffusion_worker.constraints.inference.matcher import Matcher
from diffusion_worker.errors import OutOfRange, WorkerError
from diffusion_worker.types.timeline import Timeline

SequenceId = int
DEFAULT_ANCHOR = 0.8  # of a text to edit whose request names no strength, see docs/decisions/0006


class DecodingMode(StrEnum):
    """How the weights are read: many positions of a canvas at once, or left to right one token at a time."""

    DIFFUSION = "diffusion"
    AUTOREGRESSIVE = "autoregressive"


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoisingParams:
    """The numbers of one denoising run. A checkpoint brings its own (`ModelInfo.denoising`), a request overrides single
    fields with `dataclasses.replace`. Defaults are those of the released checkpoint. Raises OutOfRange, naming a field.
    """

    steps: int = 48
    entropy_bound: float = 0.1  # nats that one step may accept, beyond the surest position
    t_min: float = 0.4
    t_max: float = 0.8
    stability: int = 1  # how many previous argmax canvases must equal the present one
    confidence_threshold: float = 0.005  # nats; the mean entropy must be below it to stop early
    canvas_length: int = 256

    def __post_init__(self) -> None:
        _within("steps", self.steps, 1, 4096)
        _within("entropy_bound", self.entropy_bound, 0.0, math.inf)
        _within("t_min", self.t_min, 0.001, 100.0)
        _within("t_max", self.t_max, self.t_min, 100.0)
        _within("stability", self.stability, 0, 64)
        _within("confidence_threshold", self.confidence_threshold, 0.0, math.inf)
        _within("canvas_length", self.canvas_length, 1, 4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One answer wanted, in ids. End tokens belong to the checkpoint; stop *strings* to the web layer, which reads the
    events and aborts. `n` answers are `n` asks with different seeds. Raises OutOfRange naming the field.

    `temperature` scales the sampling of tokens: 0 takes the argmax, None is the checkpoint's own habit (a canvas: as
    trained, the same as 1; left to right: the argmax).
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int  # exact upper limit of emitted tokens, the end token counted
    seed: int
    denoising: DenoisingParams
    decoding_mode: DecodingMode = DecodingMode.DIFFUSION
    temperature: float | None = None
    start_ids: tuple[int, ...] = ()  # a text to start from, e.g. one to edit; a hint, unused by reading
    anchor: float = 0.0  # how strongly canvases keep to it, 0 (not at all) to 1
    suffix_ids: tuple[int, ...] = ()  # what stands behind the gap to be filled; its beginning is shown to the net
    stream_prefix: bool = False  # tell what is steady before the canvas is sealed, and hold on to it
    stream_drafts: bool = False  # tell the surest canvas of every step
    deadline_s: float | None = None  # from submission; the best answer so far is returned when it passes
    matcher: Matcher | None = None  # what the answer may be; it stands before the first token, with max_tokens left
    labels: Labels | None = None  # of which one is the answer, chosen in one pass; instead of a cursor
    timeline: Timeline | None = None  # where its moments are noted, if it is traced

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise OutOfRange("the prompt is empty", param="messages")
        _within("max_tokens", self.max_tokens, 1, 2**31)
        _within("seed", self.seed, -(2**63), 2**63 - 1)
        _within("anchor", self.anchor, 0.0, 1.0)
        if self.temperature is not None:
            _within("temperature", self.temperature, 0.0, 2.0)
        if self.deadline_s is not None:
            _within("deadline_ms", self.deadline_s, 0.0, math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedWait:
    """A predicted wait, in seconds: plain, and corrected by how wrong such predictions have been."""

    decoding_mode: DecodingMode
    plain_s: float
    wait_s: float


class FinishReason(StrEnum):
    """Why an answer is complete. On OpenAI's wire `deadline` is spelled `length`."""

    STOP = "stop"
    LENGTH = "length"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a sequence has cost and how sure it is, so far. An emitted end token counts as a completion token.

    `confidence`: geometric mean probability of the emitted tokens from raw logits (temperature 1), over those that no
    constraint has forced; None before any.
    `converged`: whether every block so far stopped by stability; None for the autoregressive reading.
    """

    prompt_tokens: int
    completion_tokens: int
    denoising_steps: int  # canvas passes
    forward_passes: int  # all passes: context, canvas, seal
    confidence: float | None
    converged: bool | None
    cached_tokens: int = 0  # of the prompt, that another context had computed before

    @property
    def tokens_per_forward(self) -> float:
        """Completion tokens per forward pass of any kind; 0 before the first."""
        return self.completion_tokens / self.forward_passes if self.forward_passes else 0.0


def together(spent: Usage, last: Usage) -> Usage:
    """What attempts at one answer have cost together. The prompt is the first one's, the marks are the last one's."""
    return replace(
        last,
        prompt_tokens=spent.prompt_tokens,
        cached_tokens=spent.cached_tokens,
        completion_tokens=spent.completion_tokens + last.completion_tokens,
        denoising_steps=spent.denoising_steps + last.denoising_steps,
        forward_passes=spent.forward_passes + last.forward_passes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSealed:
    """One more block is final (of one token, when read left to right): its ids behind those that were told before,
    without end and pad tokens; may be empty."""

    ids: tuple[int, ...]
    block: int
    usage: Usage  # true at this point, so that a stop string found in these ids can be answered at once
    labels: tuple[float, ...] = ()  # log-probabilities of the labels that were asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixStable:
    """More ids of a block that is still being denoised; they are final. Only for asks with `stream_prefix`."""

    ids: tuple[int, ...]
    block: int
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasDrafted:
    """What a canvas looks like after a step, up to its end token; nothing of it is final. Only for `stream_drafts`."""

    ids: tuple[int, ...]  # of the whole block
    block: int
    step: int  # counts up from 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The sequence is answered."""

    reason: FinishReason
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Faulted:
    """The sequence ended without an answer (or with part of one, if blocks were sealed before)."""

    error: WorkerError
    usage: Usage


Ending = Finished | Faulted  # every submitted sequence ends in exactly one of them
Event = BlockSealed | PrefixStable | CanvasDrafted | Finished | Faulted


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKv:
    """What one attention layer keeps of every context token: a key and a value of [heads, head_dim] each."""

    heads: int
    head_dim: int
    window: int | None  # a sliding layer keeps the last window - 1 tokens, None keeps all


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The quantised part of a net's weights; `bits` of each, its share of a scale included, None if not declared."""

    method: str
    parameters: int
    bits: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """What a net will take, known before any weight is; see `nets.plan`."""

    parameters: int  # tied weights counted once
    active_parameters: int  # that one token of text passes through
    kv_layers: tuple[LayerKv, ...]
    max_context: int  # tokens
    canvas_length: int
    dtype: str | None  # as the config says the weights are stored; None: it does not say
    quantised: Packed | None  # the stored weights are smaller than `dtype` says


class Residency(StrEnum):
    """Where the weights are; the word in `/health`."""

    COLD = "cold"
    LOADING = "loading"
    READY = "ready"
    DEGRADED = "degraded"
    EVICTING = "evicting"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a loaded net says about itself."""

    vocab_size: int
    hidden_size: int
    max_context: int  # tokens, prompt and answer together
    denoising: DenoisingParams  # the checkpoint's own numbers
    end_ids: tuple[int, ...]
    pad_id: int
    parameters: int
    dtype: str
    weight_bytes: int  # that they take once the net runs
    quantised: str | None = None  # the method, if they are kept quantised


class Pressure(IntEnum):
    """What memory pressure has made the worker give up, each rung including the ones before."""

    NONE = 0
    RETAINED = 1  # contexts kept for reuse
    ROWS = 2  # half of the rows that advance together
    DOOR = 3  # new requests


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """One look at the engine, for health and metrics."""

    state: Residency
    running: int
    waiting: int
    max_num_seqs: int
    predicted_wait_ms: float | None  # None until a step has been measured
    memory_used_bytes: int
    memory_limit_bytes: int
    kv_bytes: int
    weight_bytes: int = 0  # 0: they are not in memory
    retained_contexts: int = 0  # of former requests, kept for reuse
    pressure: Pressure = Pressure.NONE


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


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # false for NaN as well
        raise OutOfRange(f"{name} must be between {low:g} and {high:g}, not {value!r}", param=name)
