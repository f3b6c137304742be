"""Records of a generation request: token ids, sampling and denoising parameters.

Plain values without text, tensors or clocks. Times are in seconds, entropies in nats.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from diffusion_worker.constraints.inference.labels import Labels
from diffusion_worker.constraints.inference.matcher import Matcher
from diffusion_worker.errors import OutOfRange
from diffusion_worker.types.timeline import Timeline

SequenceId = int
DEFAULT_ANCHOR = 0.8  # for edits whose request sets no strength, see docs/decisions/0006


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


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # false for NaN as well
        raise OutOfRange(f"{name} must be between {low:g} and {high:g}, not {value!r}", param=name)
