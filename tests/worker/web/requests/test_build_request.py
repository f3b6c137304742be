"""Generation requests are built from request params and model defaults."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.errors import OutOfRange, PromptTooLong
from diffusion_worker.types.model_info import ModelInfo, StepShape
from diffusion_worker.types.requests import (
    DEFAULT_ANCHOR,
    DecodingMode,
    DenoisingParams,
    GenerationRequest,
)
from diffusion_worker.web.error_body import InvalidValue, Unsupported
from diffusion_worker.web.requests.build_request import MAX_WORK, RequestInputs, build_request
from diffusion_worker.web.requests.request_params import Overrides, RequestParams, UnderLoad

INFO = ModelInfo(
    vocab_size=272,
    hidden_size=8,
    step=StepShape(vocab_size=272, attention_width=1, feed_forward_width=1),
    max_context=200,
    denoising=DenoisingParams(canvas_length=16, steps=24),
    end_ids=(1,),
    pad_id=0,
    parameters=1,
    dtype="float32",
    weight_bytes=0,
)
REQUEST = RequestParams(model="m")
INPUTS = RequestInputs(
    prompt_ids=(5,) * 10, prompt_name="messages", decoding_mode=DecodingMode.DIFFUSION, seed=99, deadline_ms=None
)


def built(request: RequestParams = REQUEST, info: ModelInfo = INFO, **inputs: Any) -> GenerationRequest:
    return build_request(request, replace(INPUTS, **inputs), info)


def test_defaults_of_the_checkpoint_apply() -> None:
    """Denoising params of the checkpoint, the rest of the context, the random seed."""
    assert built() == GenerationRequest(
        prompt_ids=(5,) * 10,
        max_tokens=INFO.max_context - 10,
        seed=99,
        denoising=INFO.denoising,
        decoding_mode=DecodingMode.DIFFUSION,
    )


def test_request_params_override_the_defaults() -> None:
    """Seed, temperature, length, denoising params."""
    request = replace(REQUEST, max_tokens=7, seed=3, temperature=0.5, overrides=Overrides(steps=4, canvas_length=8))
    got = built(request)
    assert (got.max_tokens, got.seed, got.temperature) == (7, 3, 0.5)
    assert got.denoising == replace(INFO.denoising, steps=4, canvas_length=8)


def test_the_default_length_is_the_rest_of_the_context() -> None:
    assert built(replace(REQUEST, overrides=Overrides(canvas_length=10))).max_tokens == 190
    assert built(replace(REQUEST, overrides=Overrides(canvas_length=1))).max_tokens < 190  # of very short canvases
    assert built(prompt_ids=(5,) * 180).max_tokens == 20


@pytest.mark.parametrize(("prompt", "max_tokens", "param"), [(200, None, "messages"), (150, 51, "max_tokens")])
def test_requests_beyond_the_context_length_are_refused(prompt: int, max_tokens: int | None, param: str) -> None:
    """The message contains the context length, the prompt length and the requested length."""
    with pytest.raises(PromptTooLong, match="maximum context length is 200 tokens") as caught:
        built(replace(REQUEST, max_tokens=max_tokens), prompt_ids=(5,) * prompt)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", param)


@pytest.mark.parametrize(
    ("body_ms", "header_ms", "seconds"), [(None, None, None), (50, None, 0.05), (None, 80, 0.08), (50, 80, 0.05)]
)
def test_the_smaller_of_two_deadlines_applies(body_ms: float | None, header_ms: float | None, seconds: float) -> None:
    assert built(replace(REQUEST, deadline_ms=body_ms), deadline_ms=header_ms).deadline_s == seconds


def test_overrides_that_conflict_with_the_checkpoint_are_named() -> None:
    """A t_min above the checkpoint's t_max."""
    with pytest.raises(OutOfRange) as caught:
        built(replace(REQUEST, overrides=Overrides(t_min=0.9)))
    assert caught.value.param == "diffusion.t_max"


@pytest.mark.parametrize(("name", "most"), [("steps", 24), ("canvas_length", 16)])
def test_steps_and_canvas_are_at_most_the_checkpoints(name: str, most: int) -> None:
    assert getattr(built(replace(REQUEST, overrides=Overrides(**{name: most}))).denoising, name) == most
    with pytest.raises(OutOfRange, match=f"must be at most {most}, the checkpoint's own value, not") as caught:
        built(replace(REQUEST, overrides=Overrides(**{name: most + 1})))
    assert (caught.value.status, caught.value.param) == (400, f"diffusion.{name}")


@given(canvas=st.integers(1, 16), steps=st.integers(1, 24), tokens=st.integers(1, 190))
def test_the_steps_of_one_request_are_bounded(canvas: int, steps: int, tokens: int) -> None:
    """By four times those that fill the context with the checkpoint's own parameters."""
    most = MAX_WORK * math.ceil(200 / 16) * 24
    needed = math.ceil(tokens / canvas) * steps
    wish = replace(REQUEST, max_tokens=tokens, overrides=Overrides(canvas_length=canvas, steps=steps))
    if needed <= most:
        assert built(wish).max_tokens == tokens
        return
    with pytest.raises(OutOfRange, match=f"take up to {needed} steps; at most {most} are allowed") as caught:
        built(wish)
    assert caught.value.param == "diffusion.canvas_length"


@pytest.mark.parametrize(("requested", "anchor"), [(None, DEFAULT_ANCHOR), (0.0, 0.0), (0.4, 0.4)])
def test_a_prediction_sets_start_ids_and_anchor(requested: float | None, anchor: float) -> None:
    """With the requested or the default strength."""
    got = built(replace(REQUEST, anchor=requested), prediction_ids=(7, 8))
    assert (got.start_ids, got.anchor) == ((7, 8), anchor)


@pytest.mark.parametrize("prediction", [None, ()])
def test_without_a_prediction_the_anchor_is_zero(prediction: tuple[int, ...] | None) -> None:
    """Also with an empty one."""
    assert built(prediction_ids=prediction).anchor == 0.0


def test_an_anchor_without_a_prediction_is_refused() -> None:
    with pytest.raises(InvalidValue) as caught:
        built(replace(REQUEST, anchor=0.5))
    assert caught.value.param == "diffusion.anchor"


def test_stable_prefix_and_drafts_require_streaming() -> None:
    """Drafts must also be requested."""
    assert not built().stream_prefix
    assert built(replace(REQUEST, is_stream=True)).stream_prefix
    assert not built(replace(REQUEST, is_stream=True)).stream_drafts
    assert built(replace(REQUEST, is_stream=True, include_drafts=True)).stream_drafts


@pytest.mark.parametrize("mode", [DecodingMode.AUTOREGRESSIVE, DecodingMode.VERIFIED])
@pytest.mark.parametrize(
    ("request_", "inputs", "param"),
    [
        (REQUEST, {"suffix_ids": (7,)}, "suffix"),
        (replace(REQUEST, anchor=0.5), {}, "diffusion.anchor"),
        (replace(REQUEST, overrides=Overrides(steps=3)), {}, "diffusion.steps"),
    ],
)
def test_canvas_params_are_refused_in_other_modes(
    request_: RequestParams, inputs: dict[str, Any], param: str, mode: DecodingMode
) -> None:
    """By name."""
    with pytest.raises(Unsupported, match=f"in {mode.value} mode") as caught:
        built(request_, decoding_mode=mode, **inputs)
    assert caught.value.param == param


def test_a_prediction_is_a_draft_of_a_verified_answer_only() -> None:
    verified = built(REQUEST, decoding_mode=DecodingMode.VERIFIED, prediction_ids=(7, 8))
    assert verified.start_ids == (7, 8)
    with pytest.raises(Unsupported) as caught:
        built(REQUEST, decoding_mode=DecodingMode.AUTOREGRESSIVE, prediction_ids=())
    assert caught.value.param == "prediction"


def test_drafts_are_streamed_wherever_there_are_any() -> None:
    watched = replace(REQUEST, is_stream=True, include_drafts=True)
    assert built(watched, decoding_mode=DecodingMode.VERIFIED).stream_drafts
    with pytest.raises(Unsupported) as caught:
        built(watched, decoding_mode=DecodingMode.AUTOREGRESSIVE)
    assert caught.value.param == "stream_options.include_drafts"


def test_thresholds_may_move_under_load_but_not_with_a_seed() -> None:
    """A seed asks for the same answer at any load."""
    request = replace(REQUEST, under_load=UnderLoad(confidence_threshold=0.1, stability=0))
    assert built(request).loosest == replace(INFO.denoising, confidence_threshold=0.1, stability=0)
    assert built(replace(request, seed=7)).loosest is None
    assert built().loosest is None
    assert built(replace(REQUEST, under_load=UnderLoad())).loosest is None


@pytest.mark.parametrize(
    ("under_load", "param"),
    [
        (UnderLoad(entropy_bound=0.01), "diffusion.under_load.entropy_bound"),
        (UnderLoad(confidence_threshold=0.001), "diffusion.under_load.confidence_threshold"),
        (UnderLoad(stability=2), "diffusion.under_load.stability"),
    ],
)
def test_load_never_makes_thresholds_stricter(under_load: UnderLoad, param: str) -> None:
    with pytest.raises(OutOfRange, match="without load") as caught:
        built(replace(REQUEST, under_load=under_load))
    assert caught.value.param == param


@pytest.mark.parametrize("mode", [DecodingMode.VERIFIED, DecodingMode.AUTOREGRESSIVE])
def test_answers_of_causal_passes_have_no_thresholds(mode: DecodingMode) -> None:
    with pytest.raises(Unsupported, match="under_load"):
        built(replace(REQUEST, under_load=UnderLoad(stability=0)), decoding_mode=mode)
