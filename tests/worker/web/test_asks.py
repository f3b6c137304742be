"""web.asks: a request plus the checkpoint's own numbers makes an ask."""

from dataclasses import replace
from typing import Any

import pytest

from diffusion_worker.errors import OutOfRange, PromptTooLong
from diffusion_worker.records import Ask, NetFacts, Reading, Recipe
from diffusion_worker.text.conversation import Message
from diffusion_worker.web.asks import DEFAULT_CANVASES, Given, ask_of
from diffusion_worker.web.openai import ChatRequest, Overrides
from diffusion_worker.web.problems import Unsupported

FACTS = NetFacts(
    vocab_size=272,
    hidden_size=8,
    max_context=200,
    recipe=Recipe(canvas_length=16, steps=24),
    end_ids=(1,),
    pad_id=0,
    parameters=1,
    dtype="float32",
    weight_bytes=0,
)
REQUEST = ChatRequest(model="m", messages=(Message(role="user", content="x"),))
GIVEN = Given(prompt_ids=(5,) * 10, prediction_ids=(), reading=Reading.DIFFUSION, seed=99, deadline_ms=None)


def ask(request: ChatRequest = REQUEST, facts: NetFacts = FACTS, **given: Any) -> Ask:
    return ask_of(request, replace(GIVEN, **given), facts)


def test_without_wishes_the_checkpoints_own_numbers_hold() -> None:
    """Recipe of the checkpoint, four canvases, the seed that was drawn."""
    assert ask() == Ask(
        prompt_ids=(5,) * 10, max_tokens=DEFAULT_CANVASES * 16, seed=99, recipe=FACTS.recipe, reading=Reading.DIFFUSION
    )


def test_wishes_win() -> None:
    """Seed, temperature, length, numbers of the loop."""
    request = replace(REQUEST, max_tokens=7, seed=3, temperature=0.5, overrides=Overrides(steps=4, canvas_length=32))
    got = ask(request)
    assert (got.max_tokens, got.seed, got.temperature) == (7, 3, 0.5)
    assert got.recipe == replace(FACTS.recipe, steps=4, canvas_length=32)


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


def test_a_prediction_becomes_the_start_of_the_canvas() -> None:
    """In ids."""
    assert ask(prediction_ids=(7, 8)).start_ids == (7, 8)


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (replace(REQUEST, prediction="x"), "prediction"),
        (replace(REQUEST, overrides=Overrides(steps=3)), "diffusion.steps"),
    ],
)
def test_left_to_right_there_is_no_canvas_to_speak_of(request_: ChatRequest, param: str) -> None:
    """What only a canvas understands is refused by name."""
    with pytest.raises(Unsupported) as caught:
        ask(request_, reading=Reading.AUTOREGRESSIVE)
    assert caught.value.param == param
