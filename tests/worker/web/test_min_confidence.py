"""The header x-twolane-min-confidence: a worker ends an answer that cannot reach it, in both decoding modes."""

from dataclasses import replace
from typing import Any

import pytest

from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.confidence import ConfidenceWeights
from diffusion_worker.types.requests import DecodingMode
from tests.worker.serving import MODEL, events, serving, toy_model

pytestmark = pytest.mark.anyio
HEADER = "x-twolane-min-confidence"
TEXT = "a text that takes more than one canvas of sixteen tokens"


def judged(**knobs: Any) -> ToyModel:
    """A model whose confidence follows from the surprise of prompt and answer."""
    model = toy_model(TEXT, **knobs)
    weights = ConfidenceWeights(intercept=4.0, weights={"prompt_surprise": -0.05, "token_surprise": -4.0})
    model.info = replace(model.info, confidence=dict.fromkeys(DecodingMode, weights))
    return model


@pytest.mark.parametrize("mode", ["", ":verified", ":autoregressive"])
async def test_an_answer_below_it_is_refused_and_is_not_worth_a_retry(mode: str) -> None:
    async with serving(judged(confidence=0.2)) as worker:
        answer = await worker.ask(model=MODEL + mode, headers={HEADER: "0.5"}, max_tokens=100)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "low_confidence"
    assert answer.headers["x-should-retry"] == "false"


async def test_it_ends_within_its_first_canvas() -> None:
    async with serving(judged(confidence=0.2)) as worker:
        await worker.ask(headers={HEADER: "0.5"}, max_tokens=100)
        ended = worker.model.passes
        await worker.ask(max_tokens=100)
        assert ended <= 1 + 16  # the prompt and the steps of one canvas
        assert worker.model.passes - ended > 2 * ended


async def test_a_stream_below_it_ends_with_the_error() -> None:
    async with serving(judged(confidence=0.2)) as worker:
        answer = await worker.ask(headers={HEADER: "0.5"}, stream=True, max_tokens=100)
    assert "low_confidence" in (answer.text if answer.status_code != 200 else events(answer.text)[-1])


@pytest.mark.parametrize("minimum", ["0", "0.5", "1e-3"])
async def test_an_answer_that_reaches_it_is_served_whole(minimum: str) -> None:
    async with serving(judged()) as worker:
        answer = await worker.ask(headers={HEADER: minimum}, max_tokens=100)
    body = answer.json()
    assert body["choices"][0]["message"]["content"] == TEXT
    assert body["usage"]["diffusion"]["confidence"] > 0.5


@pytest.mark.parametrize("mode", [":verified", ":autoregressive"])
@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_behind_a_stop_string_do_not_count(mode: str, stream: bool) -> None:
    """A verified pass may choose some of them; without the stop string, they make the answer too doubtful."""
    fields: dict[str, Any] = {"model": MODEL + mode, "max_tokens": 100, "stream": stream}
    async with serving(judged(confidence=0.6)) as worker:
        answer = await worker.ask(headers={HEADER: "0.9"}, stop="te", **fields)
        without = await worker.ask(headers={HEADER: "0.9"}, **fields)
    assert answer.status_code == 200
    if stream:
        assert "low_confidence" in without.text
        assert "low_confidence" not in answer.text
    else:
        assert without.status_code == 422
        usage = answer.json()["usage"]
        assert usage["completion_tokens"] == len("a te")
        assert usage["diffusion"]["confidence"] == pytest.approx(0.94, abs=0.01)


async def test_a_checkpoint_without_weights_ignores_it() -> None:
    async with serving(toy_model(TEXT, confidence=0.2)) as worker:
        answer = await worker.ask(headers={HEADER: "0.9"}, max_tokens=100)
    assert answer.status_code == 200
    assert answer.json()["usage"]["diffusion"]["confidence"] < 0.9


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "inf", "sure", ""])
async def test_a_value_that_is_no_probability_is_refused_by_name(value: str) -> None:
    async with serving(toy_model()) as worker:
        answer = await worker.ask(headers={HEADER: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == HEADER


async def test_the_confidence_of_a_prompt_does_not_depend_on_what_is_cached() -> None:
    """A repeated prompt, and one that begins like another, have the confidence that they have alone."""
    prompts = ["a shared beginning of many tokens, then one", "a shared beginning of many tokens, then two"]

    async def confidences(*asked: str) -> list[float]:
        model = judged()
        weights = ConfidenceWeights(intercept=1.0, weights={"prompt_surprise": -0.05})
        model.info = replace(model.info, confidence=dict.fromkeys(DecodingMode, weights))
        async with serving(model, prefix_slots=4) as worker:
            answers = [await worker.ask(text, max_tokens=100) for text in asked]
        return [answer.json()["usage"]["diffusion"]["confidence"] for answer in answers]

    alone = [(await confidences(text))[0] for text in prompts]
    assert await confidences(*prompts, *prompts) == pytest.approx([*alone, *alone])
    assert alone[0] < 0.73  # the prompt counts
