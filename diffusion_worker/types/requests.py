"""Records of a generation request: token ids, sampling and denoising parameters.

Plain values without text, tensors or clocks. Times are in seconds, entropies in nats.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from diffusion_worker.constraints.inference.labels import Labels
from diffusion_worker.constraints.inference.matcher import Matcher
from diffusion_worker.constraints.inference.template import Template
from diffusion_worker.errors import OutOfRange
from diffusion_worker.types.timeline import Timeline

SequenceId = int
MIN_REPETITION, MAX_REPETITION = 0.01, 100.0  # bounds of the repetition penalty
THRESHOLDS = ("entropy_bound", "confidence_threshold", "stability")  # of acceptance and of the stop; may follow a load
DEFAULT_ANCHOR = 0.8  # for edits whose request sets no strength, see docs/decisions/0006


class DecodingMode(StrEnum):
    """How tokens are generated: a canvas of positions at once by diffusion; one token at a time, left to right; or the
    same tokens as left to right, several per pass, because a canvas drafts them and the causal pass verifies them."""

    DIFFUSION = "diffusion"
    VERIFIED = "verified"
    AUTOREGRESSIVE = "autoregressive"


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoisingParams:
    """Parameters of the denoising loop.

    A checkpoint declares its own (`ModelInfo.denoising`); a request overrides single fields with
    `dataclasses.replace`. The defaults are those of the released checkpoint. Raises OutOfRange, naming the field.
    """

    steps: int = 48
    entropy_bound: float = 0.1  # nats accepted per step, not counting the most certain position
    t_min: float = 0.4
    t_max: float = 0.8
    stability: int = 1  # previous argmax canvases that must equal the current one
    confidence_threshold: float = 0.005  # nats; denoising stops early only below this mean entropy
    canvas_length: int = 256

    def __post_init__(self) -> None:
        _within("steps", self.steps, 1, 4096)
        _within("entropy_bound", self.entropy_bound, 0.0, math.inf)
        _within("t_min", self.t_min, 0.001, 100.0)
        _within("t_max", self.t_max, self.t_min, 100.0)
        _within("stability", self.stability, 0, 64)
        _within("confidence_threshold", self.confidence_threshold, 0.0, math.inf)
        _within("canvas_length", self.canvas_length, 1, 4096)

    def at_load(self, loosest: "DenoisingParams", load: float) -> "DenoisingParams":
        """These parameters at a load from 0 to 1: thresholds move towards the `loosest` ones, which hold at 1."""
        if load == 0.0:
            return self

        def moved(own: float, most: float) -> float:
            return (1.0 - load) * own + load * most

        return replace(
            self,
            entropy_bound=moved(self.entropy_bound, loosest.entropy_bound),
            confidence_threshold=moved(self.confidence_threshold, loosest.confidence_threshold),
            stability=round(moved(self.stability, loosest.stability)),
        )

    def moved_at(self, loosest: "DenoisingParams", load: float) -> tuple[tuple[str, float], ...]:
        """The thresholds that a load moves away from these, with the values that it gives them."""
        at_load = self.at_load(loosest, load)
        found = ((name, getattr(self, name), getattr(at_load, name)) for name in THRESHOLDS)
        return tuple((name, value) for name, own, value in found if value != own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncation:
    """Tokens that sampling may choose, as in vLLM: those with at least `min_p` times the probability of the most likely
    token, then the `top_k` most likely ones (0: all), then the most likely ones that together reach `top_p`.

    Tokens as likely as the last one chosen are kept. Applied after the temperature. Raises OutOfRange.
    """

    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        _within("top_k", self.top_k, 0, 2**31 - 1)
        _within("top_p", self.top_p, 0.0, 1.0)
        _within("min_p", self.min_p, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalties:
    """Changes of single logits before anything else, as in vLLM: `logit_bias` is added; the logits of tokens of the
    prompt and of the output are divided by `repetition`, or multiplied if negative; then `frequency` times the number
    of occurrences in the output, and `presence` if there are any, are subtracted. Raises OutOfRange.
    """

    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token, bias)

    def __post_init__(self) -> None:
        _within("presence_penalty", self.presence, -2.0, 2.0)
        _within("frequency_penalty", self.frequency, -2.0, 2.0)
        _within("repetition_penalty", self.repetition, MIN_REPETITION, MAX_REPETITION)
        for _, bias in self.logit_bias:
            _within("logit_bias", bias, -100.0, 100.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """A request for one completion, as token ids.

    End tokens come from the checkpoint. Stop strings are handled by the web layer, which stops the sequence. `n`
    completions are `n` requests with different seeds. Raises OutOfRange, naming the field.

    `temperature` scales token sampling: 0 takes the argmax, None uses the default of the decoding mode (diffusion: 1,
    as in training; otherwise the argmax).
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int  # upper limit of emitted tokens, including the end token
    seed: int
    denoising: DenoisingParams
    decoding_mode: DecodingMode = DecodingMode.DIFFUSION
    temperature: float | None = None
    truncation: Truncation | None = None  # None: any token may be sampled
    penalties: Penalties | None = None
    kept: int = 0  # tokens at the end of the prompt that are output of an earlier attempt; penalties count them so
    start_ids: tuple[int, ...] = ()  # text to start from, e.g. one to edit; ignored in autoregressive mode
    anchor: float = 0.0  # how strongly canvases keep `start_ids`, from 0 (not at all) to 1
    suffix_ids: tuple[int, ...] = ()  # text after the completion (fill in the middle); its beginning is pinned
    loosest: DenoisingParams | None = None  # thresholds at full load, see `DenoisingParams.at_load`; None: they stay
    may_stop: bool = False  # a stop string may end the answer at any token
    stream_prefix: bool = False  # stream the stable prefix of a canvas before it is sealed, and pin it
    stream_drafts: bool = False  # stream the argmax canvas of every step
    deadline_s: float | None = None  # from submission; when it passes, the best completion so far is returned
    top_logprobs: int | None = None  # most likely tokens to report with each token; None: no log-probabilities. Not for
    # diffusion, whose tokens have no probability left to right
    prompt_logprobs: int | None = None  # the same for the tokens of the prompt; only if a causal pass ends the prompt
    min_confidence: float | None = None  # it ends once its confidence cannot reach this, if the checkpoint has weights
    matcher: Matcher | None = None  # constraint in its initial state, with max_tokens remaining
    labels: Labels | None = None  # choose one of these labels, in place of a matcher
    template: Template | None = None  # fill the holes of this one canvas; the denoising takes at most two steps
    timeline: Timeline | None = None  # records events of a traced request

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise OutOfRange("the prompt is empty", param="messages")
        # Without an answer, a single causal pass ends the prompt.
        _within("max_tokens", self.max_tokens, int(self.decoding_mode is not DecodingMode.AUTOREGRESSIVE), 2**31)
        _within("seed", self.seed, -(2**63), 2**63 - 1)
        _within("anchor", self.anchor, 0.0, 1.0)
        if self.temperature is not None:
            _within("temperature", self.temperature, 0.0, 2.0)
        if self.min_confidence is not None:
            _within("min_confidence", self.min_confidence, 0.0, 1.0)
        if self.deadline_s is not None:
            _within("deadline_ms", self.deadline_s, 0.0, math.inf)

    def moved_thresholds(self, load: float) -> tuple[tuple[str, float], ...]:
        """The thresholds that this load moves, with their values."""
        return self.denoising.moved_at(self.loosest, load) if self.loosest else ()


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # false for NaN as well
        raise OutOfRange(f"{name} must be between {low:g} and {high:g}, not {value!r}", param=name)
