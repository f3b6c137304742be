"""web.asks: a request plus the checkpoint's own numbers makes an ask."""

from dataclasses import replace
from typing import Any

import pytest

from diffusion_worker.errors import OutOfRange, PromptTooLong
from diffusion_worker.types.model_info import ModelInfo
from diffusion_worker.types.requests import (
    DEFAULT_ANCHOR,
    DecodingMode,
    DenoisingParams,
    GenerationRequest,
)
from diffusion_worker.web.error_body import InvalidValue, Unsupported
from diffusion_worker.web.requests.build_request import DEFAULT_CANVASES, RequestInputs, build_request
from diffusion_worker.web.requests.request_params import Overrides, RequestParams

FACTS = ModelInfo(
    vocab_size=272,
    hidden_size=8,
    max_context=200,
    denoising=DenoisingParams(canvas_length=16, steps=24),
    end_ids=(1,),
    pad_id=0,
    parameters=1,
    dtype="float32",
    weight_bytes=0,
)
REQUEST = RequestParams(model="m")
GIVEN = RequestInputs(
    prompt_ids=(5,) * 10, prompt_name="messages", decoding_mode=DecodingMode.DIFFUSION, seed=99, deadline_ms=None
)


def ask(request: RequestParams = REQUEST, info: ModelInfo = FACTS, **given: Any) -> GenerationRequest:
    return build_request(request, replace(GIVEN, **given), info)


def test_without_wishes_the_checkpoints_own_numbers_hold() -> None:
    """Recipe of the checkpoint, four canvases, the seed that was drawn."""
    assert ask() == GenerationRequest(
        prompt_ids=(5,) * 10,
        max_tokens=DEFAULT_CANVASES * 16,
        seed=99,
        denoising=FACTS.denoising,
        decoding_mode=DecodingMode.DIFFUSION,
    )


def test_wishes_win() -> None:
    """Seed, temperature, length, numbers of the loop."""
    request = replace(REQUEST, max_tokens=7, seed=3, temperature=0.5, overrides=Overrides(steps=4, canvas_length=32))
    got = ask(request)
    assert (got.max_tokens, got.seed, got.temperature) == (7, 3, 0.5)
    assert got.denoising == replace(FACTS.denoising, steps=4, canvas_length=32)


def test_a_default_length_follows_the_canvas_and_the_room_left() -> None:
    """Four of the canvases asked for, at most what the context still holds."""
    assert ask(replace(REQUEST, overrides=Overrides(canvas_length=20))).max_tokens == 80
    assert ask(prompt_ids=(5,) * 180).max_tokens == 20


@pytest.mark.parametrize(("prompt", "max_tokens", "param"), [(200, None, "messages"), (150, 51, "max_tokens")])
def test_what_does_not_fit_the_context_is_refused(prompt: int, max_tokens: int | None, param: str) -> None:
    """Prompt and answer share it; the message gives all three numbers."""
    with pytest.raises(PromptTooLong, match="holds 200 tokens") as caught:
        ask(replace(REQUEST, max_tokens=max_tokens), prompt_ids=(5,) * prompt)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", param)


@pytest.mark.parametrize(
    ("body_ms", "header_ms", "seconds"), [(None, None, None), (50, None, 0.05), (None, 80, 0.08), (50, 80, 0.05)]
)
def test_of_two_deadlines_the_smaller_holds(body_ms: float | None, header_ms: float | None, seconds: float) -> None:
    """Whoever set it."""
    assert ask(replace(REQUEST, deadline_ms=body_ms), deadline_ms=header_ms).deadline_s == seconds


def test_numbers_that_do_not_fit_the_checkpoints_are_named() -> None:
    """A t_min above the checkpoint's t_max."""
    with pytest.raises(OutOfRange) as caught:
        ask(replace(REQUEST, overrides=Overrides(t_min=0.9)))
    assert caught.value.param == "diffusion.t_max"


@pytest.mark.parametrize(("wished", "anchor"), [(None, DEFAULT_ANCHOR), (0.0, 0.0), (0.4, 0.4)])
def test_a_prediction_is_what_the_canvas_starts_from_and_keeps_to(wished: float | None, anchor: float) -> None:
    """As strongly as asked for, else as strongly as can be."""
    got = ask(replace(REQUEST, anchor=wished), prediction_ids=(7, 8))
    assert (got.start_ids, got.anchor) == ((7, 8), anchor)


@pytest.mark.parametrize("prediction", [None, ()])
def test_without_a_prediction_there_is_nothing_to_keep_to(prediction: tuple[int, ...] | None) -> None:
    """An empty one is none."""
    assert ask(prediction_ids=prediction).anchor == 0.0


def test_an_anchor_without_a_prediction_is_a_mistake() -> None:
    """Worth telling."""
    with pytest.raises(InvalidValue) as caught:
        ask(replace(REQUEST, anchor=0.5))
    assert caught.value.param == "diffusion.anchor"


def test_only_who_reads_along_is_told_early() -> None:
    """Streams what is steady, and drafts where they are asked for."""
    assert not ask().stream_prefix
    assert ask(replace(REQUEST, is_stream=True)).stream_prefix
    assert not ask(replace(REQUEST, is_stream=True)).stream_drafts
    assert ask(replace(REQUEST, is_stream=True, include_drafts=True)).stream_drafts


@pytest.mark.parametrize(
    ("request_", "given", "param"),
    [
        (REQUEST, {"prediction_ids": ()}, "prediction"),
        (REQUEST, {"suffix_ids": (7,)}, "suffix"),
        (replace(REQUEST, include_drafts=True), {}, "stream_options.include_drafts"),
        (replace(REQUEST, anchor=0.5), {}, "diffusion.anchor"),
        (replace(REQUEST, overrides=Overrides(steps=3)), {}, "diffusion.steps"),
    ],
)
def test_left_to_right_there_is_no_canvas_to_speak_of(
    request_: RequestParams, inputs: dict[str, Any], param: str
) -> None:
    """What only a canvas understands is refused by name."""
    with pytest.raises(Unsupported) as caught:
        ask(request_, decoding_mode=DecodingMode.AUTOREGRESSIVE, **given)
    assert caught.value.param == param
