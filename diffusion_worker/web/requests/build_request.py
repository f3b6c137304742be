"""A parsed request turned into the engine's Ask: the model's own numbers, the reading's limits, room in the context.

Knows no JSON, no sockets, no engine and no torch; randomness and ids are arguments.
"""

import dataclasses
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

DEFAULT_CANVASES = 4  # an answer without max_tokens may fill this many canvases, if the context has room for them


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What wishes do not say: the texts in ids and where they came from, how the weights are read, a seed, the deadline
    in the header."""

    prompt_ids: tuple[int, ...]
    prompt_name: str  # the field it was read from
    decoding_mode: DecodingMode
    seed: int  # used when the request names none
    deadline_ms: float | None
    prediction_ids: tuple[int, ...] | None = None  # None: no text to edit was given
    suffix_ids: tuple[int, ...] = ()


def build_request(params: RequestParams, given: Given, info: ModelInfo) -> GenerationRequest:
    """The ask for the engine. Of two deadlines the smaller holds; without max_tokens an answer may fill four canvases,
    or what the context has left. Raises PromptTooLong, OutOfRange, InvalidValue, Unsupported."""
    _refuse_for_reading(params, given)
    denoising = _denoising(params.overrides, info.denoising)
    deadlines_ms = [ms for ms in (params.deadline_ms, given.deadline_ms) if ms is not None]
    return GenerationRequest(
        prompt_ids=given.prompt_ids,
        max_tokens=_room(params.max_tokens, given, denoising, info),
        seed=given.seed if params.seed is None else params.seed,
        denoising=denoising,
        decoding_mode=given.decoding_mode,
        temperature=params.temperature,
        start_ids=given.prediction_ids or (),
        anchor=_anchor(params, given),
        suffix_ids=given.suffix_ids,
        # What is steady may leave at once where somebody reads along; whoever waits for the whole gains nothing.
        stream_prefix=params.is_stream,
        stream_drafts=params.include_drafts,
        deadline_s=min(deadlines_ms) / 1000 if deadlines_ms else None,
    )


def _refuse_for_reading(params: RequestParams, given: Given) -> None:
    """Left to right there is no canvas: nothing to start from or to end in, no steps to count or to show."""
    if given.decoding_mode is DecodingMode.DIFFUSION:
        return
    asked = {
        "prediction": given.prediction_ids is not None,
        "suffix": bool(given.suffix_ids),
        "stream_options.include_drafts": params.include_drafts,
        "diffusion.anchor": params.anchor is not None,
        **{f"diffusion.{name}": True for name in params.overrides.given()},
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise Unsupported(f"'{name}' is not supported when the weights are read left to right.", param=name)


def _anchor(params: RequestParams, given: Given) -> float:
    """An edit keeps to its text as far as the model agrees, unless told otherwise."""
    if params.anchor is not None and given.prediction_ids is None:
        raise InvalidValue("'diffusion.anchor' is only allowed with a 'prediction'.", param="diffusion.anchor")
    if not given.prediction_ids:
        return 0.0
    return DEFAULT_ANCHOR if params.anchor is None else params.anchor


def _denoising(overrides: Overrides, own: DenoisingParams) -> DenoisingParams:
    try:
        return dataclasses.replace(own, **overrides.given())  # type: ignore[arg-type]
    except OutOfRange as error:
        raise OutOfRange(f"'diffusion.{error.param}': {error.message}", param=f"diffusion.{error.param}") from error


def _room(wanted: int | None, given: Given, denoising: DenoisingParams, info: ModelInfo) -> int:
    prompt = len(given.prompt_ids)
    left = info.max_context - prompt
    if left < 1 or (wanted or 0) > left:
        asked = f"{wanted} for the answer" if wanted else "room for an answer"
        raise PromptTooLong(
            f"The context holds {info.max_context} tokens; '{given.prompt_name}' takes {prompt}, "
            f"you asked for {asked}.",
            param=given.prompt_name if left < 1 else "max_tokens",
        )
    return wanted or min(left, DEFAULT_CANVASES * denoising.canvas_length)
