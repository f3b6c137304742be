"""Records that describe a model: shapes, sizes and the parameters that its checkpoint declares."""

from dataclasses import dataclass

from diffusion_worker.types.requests import DenoisingParams


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
