"""Records that describe a model: shapes, sizes and the parameters that its checkpoint declares."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from diffusion_worker.types.confidence import ConfidenceWeights
from diffusion_worker.types.requests import DecodingMode, DenoisingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKv:
    """Shape of one attention layer's cache: a key and a value of [heads, head_dim] for every context token."""

    heads: int
    head_dim: int
    window: int | None  # a sliding-window layer keeps the last window - 1 tokens; None: all


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """Sizes on which the memory of a step depends, besides the shapes of the KV cache; see `memory.step_memory`."""

    vocab_size: int
    attention_width: int  # values per token that a layer holds at most in its attention, without keys and values
    feed_forward_width: int  # and in its feed-forward part
    unpacked: int = 0  # values of packed weights that are unpacked at a time, whatever the number of rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The quantised part of a model's weights. `bits` per weight include the scales; None if not declared.
    `stays_packed`: also in memory."""

    method: str
    parameters: int
    bits: float | None
    stays_packed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """Size of a model, computed from its config without loading weights; see `models.plan`."""

    parameters: int  # tied weights counted once
    active_parameters: int  # used per text token
    kv_layers: tuple[LayerKv, ...]
    step: StepShape
    max_context: int  # tokens
    canvas_length: int
    dtype: str | None  # storage format of the weights; None: not declared
    quantised: Packed | None  # None: the weights are not quantised


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """Properties of a loaded model."""

    vocab_size: int
    hidden_size: int
    step: StepShape
    max_context: int  # tokens, prompt and completion together
    denoising: DenoisingParams  # defaults declared by the checkpoint
    end_ids: tuple[int, ...]
    pad_id: int
    parameters: int
    dtype: str
    weight_bytes: int  # once the model runs
    logit_cap: float = 0.0  # soft cap of the canvas head: cap * tanh(logits / cap); 0: none
    quantised: str | None = None  # the method; None: not quantised in memory
    has_template_weights: bool = False  # canvas templates are filled with weights of their own
    confidence: Mapping[DecodingMode, ConfidenceWeights] = field(default_factory=dict)  # of modes that have weights

    def confidence_weights(self, decoding_mode: DecodingMode) -> ConfidenceWeights | None:
        """The weights of a mode; None if it has none. Verified answers are those of autoregressive mode and have the
        same measurements, so its weights serve them, too."""
        shared = DecodingMode.AUTOREGRESSIVE if decoding_mode is DecodingMode.VERIFIED else decoding_mode
        return self.confidence.get(decoding_mode, self.confidence.get(shared))

    @property
    def scores_prompts(self) -> bool:
        """Whether the confidence of an answer depends on the likelihood of its prompt."""
        return any(weights.reads_prompts for weights in self.confidence.values())
