"""Builds the generation request from request params: model defaults, limits of the decoding mode, context length.

Pure: the random seed and token ids are arguments.
"""

import dataclasses
import math
from dataclasses import dataclass

from diffusion_worker.errors import OutOfRange, PromptTooLong
from diffusion_worker.types.model_info import ModelInfo
from diffusion_worker.types.requests import (
    DEFAULT_ANCHOR,
    DecodingMode,
    DenoisingParams,
    GenerationRequest,
)
from diffusion_worker.web.error_body import InvalidValue, Unsupported
from diffusion_worker.web.requests.request_params import Overrides, RequestParams

# Denoising steps of a request, as a multiple of those that fill a context with the checkpoint's own parameters.
MAX_WORK = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestInputs:
    """Inputs that the request params do not contain: token ids, decoding mode, random seed and header deadline."""

    prompt_ids: tuple[int, ...]
    prompt_name: str  # the field that contains the prompt
    decoding_mode: DecodingMode
    seed: int  # used if the request sets none
    deadline_ms: float | None
    prediction_ids: tuple[int, ...] | None = None  # text to edit; None: no prediction
    suffix_ids: tuple[int, ...] = ()


def build_request(params: RequestParams, inputs: RequestInputs, info: ModelInfo) -> GenerationRequest:
    """The generation request for the engine. The smaller of both deadlines applies.

    Without max_tokens the limit is the rest of the context, within MAX_WORK. Raises PromptTooLong, OutOfRange,
    InvalidValue, Unsupported."""
    _check_decoding_mode(params, inputs)
    _check_logit_bias(params, info)
    denoising = _denoising(params.overrides, info.denoising)
    max_tokens = _max_tokens(params.max_tokens, inputs, denoising, info)
    _check_work(max_tokens, denoising, info)
    deadlines_ms = [ms for ms in (params.deadline_ms, inputs.deadline_ms) if ms is not None]
    return GenerationRequest(
        prompt_ids=inputs.prompt_ids,
        max_tokens=max_tokens,
        seed=inputs.seed if params.seed is None else params.seed,
        denoising=denoising,
        loosest=_loosest(params, denoising),
        decoding_mode=inputs.decoding_mode,
        temperature=params.temperature,
        truncation=params.truncation,
        penalties=params.penalties,
        start_ids=inputs.prediction_ids or (),
        anchor=_anchor(params, inputs),
        suffix_ids=inputs.suffix_ids,
        may_stop=bool(params.stops),
        # The stable prefix is only useful to clients that stream.
        stream_prefix=params.is_stream,
        stream_drafts=params.include_drafts,
        deadline_s=min(deadlines_ms) / 1000 if deadlines_ms else None,
    )


def _check_decoding_mode(params: RequestParams, inputs: RequestInputs) -> None:
    """Refuse parameters of the canvas in the other modes: a causal pass sees neither suffix nor anchor. In verified
    mode, a prediction is a draft. Raises Unsupported."""
    mode = inputs.decoding_mode
    if mode is DecodingMode.DIFFUSION:
        return
    requested = {
        "prediction": inputs.prediction_ids is not None and mode is not DecodingMode.VERIFIED,
        "suffix": bool(inputs.suffix_ids),
        "stream_options.include_drafts": params.include_drafts and mode is not DecodingMode.VERIFIED,
        "diffusion.anchor": params.anchor is not None,
        "diffusion.under_load": params.under_load is not None,
        **{f"diffusion.{name}": True for name in params.overrides.as_dict()},
    }
    for name, is_requested in requested.items():
        if is_requested:
            raise Unsupported(f"'{name}' is not supported in {mode.value} mode.", param=name)


def _check_logit_bias(params: RequestParams, info: ModelInfo) -> None:
    for token, _ in params.penalties.logit_bias if params.penalties else ():
        if token >= info.vocab_size:
            raise OutOfRange(
                f"'logit_bias': token {token} is outside the vocabulary (size {info.vocab_size}).", param="logit_bias"
            )


def _anchor(params: RequestParams, inputs: RequestInputs) -> float:
    """The anchor strength: 0 without a prediction, DEFAULT_ANCHOR if the request sets none."""
    if params.anchor is not None and inputs.prediction_ids is None:
        raise InvalidValue("'diffusion.anchor' is only allowed with a 'prediction'.", param="diffusion.anchor")
    if not inputs.prediction_ids:
        return 0.0
    return DEFAULT_ANCHOR if params.anchor is None else params.anchor


def _denoising(overrides: Overrides, defaults: DenoisingParams) -> DenoisingParams:
    """The checkpoint's parameters with those of the request. Steps and canvas may be shorter than the checkpoint's, but
    not longer: memory is planned for them, and a longer canvas would slow every other request down."""
    for name in ("steps", "canvas_length"):
        wanted, most = getattr(overrides, name), getattr(defaults, name)
        if wanted is not None and wanted > most:
            raise OutOfRange(
                f"'diffusion.{name}' must be at most {most}, the checkpoint's own value, not {wanted}.",
                param=f"diffusion.{name}",
            )
    try:
        return dataclasses.replace(defaults, **overrides.as_dict())  # type: ignore[arg-type]
    except OutOfRange as error:
        raise OutOfRange(f"'diffusion.{error.param}': {error.message}", param=f"diffusion.{error.param}") from error


def _loosest(params: RequestParams, denoising: DenoisingParams) -> DenoisingParams | None:
    """The thresholds at full load. None with a seed: the answer must be the same at any load. Raises OutOfRange for one
    that is stricter than without load."""
    limits = params.under_load.as_dict() if params.under_load else {}
    loosest = dataclasses.replace(denoising, **limits)  # type: ignore[arg-type]
    for name, is_stricter in (
        ("entropy_bound", loosest.entropy_bound < denoising.entropy_bound),
        ("confidence_threshold", loosest.confidence_threshold < denoising.confidence_threshold),
        ("stability", loosest.stability > denoising.stability),
    ):
        if is_stricter:
            own, side = getattr(denoising, name), "at most" if name == "stability" else "at least"
            param = f"diffusion.under_load.{name}"
            raise OutOfRange(f"'{param}' must be {side} {own:g}, the value without load.", param=param)
    return None if loosest == denoising or params.seed is not None else loosest


def _check_work(max_tokens: int, denoising: DenoisingParams, info: ModelInfo) -> None:
    """Refuse more than MAX_WORK times the denoising steps that a whole context takes with the checkpoint's own
    parameters: very short canvases would occupy the worker with steps of one token each."""
    steps = math.ceil(max_tokens / denoising.canvas_length) * denoising.steps
    most = _most_steps(info)
    if steps > most:
        raise OutOfRange(
            f"'diffusion.canvas_length': {max_tokens} tokens in canvases of {denoising.canvas_length} take up to "
            f"{steps} steps; at most {most} are allowed.",
            param="diffusion.canvas_length",
        )


def _most_steps(info: ModelInfo) -> int:
    return MAX_WORK * math.ceil(info.max_context / info.denoising.canvas_length) * info.denoising.steps


def _max_tokens(requested: int | None, inputs: RequestInputs, denoising: DenoisingParams, info: ModelInfo) -> int:
    prompt = len(inputs.prompt_ids)
    left, least = info.max_context - prompt, 1 if requested is None else min(requested, 1)
    if left < least or (requested or 0) > left:
        answer = f"{requested} for the answer" if requested else f"at least {least} for the answer"
        raise PromptTooLong(
            f"The maximum context length is {info.max_context} tokens; '{inputs.prompt_name}' has {prompt}, "
            f"and the request needs {answer}.",
            param=inputs.prompt_name if left < least else "max_tokens",
        )
    most_canvases = max(1, _most_steps(info) // denoising.steps)
    return min(left, most_canvases * denoising.canvas_length) if requested is None else requested
