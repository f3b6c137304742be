"""The toy model completes its script, so that other tests can rely on it."""

import pytest

from diffusion_worker.engine.loop import run
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.events import Finished, FinishReason
from diffusion_worker.types.observations import BlockObserved, Observation
from diffusion_worker.types.requests import DecodingMode, DenoisingParams, GenerationRequest


def request(
    model: ToyModel, *prompt: int, decoding_mode: DecodingMode = DecodingMode.DIFFUSION, max_tokens: int = 100
) -> GenerationRequest:
    return GenerationRequest(
        prompt_ids=prompt, max_tokens=max_tokens, seed=0, denoising=model.info.denoising, decoding_mode=decoding_mode
    )


@pytest.mark.parametrize("decoding_mode", DecodingMode)
def test_it_answers_with_its_prompt_and_an_end(decoding_mode: DecodingMode) -> None:
    model = ToyModel()
    [answer] = run(model, [request(model, *range(50, 90), decoding_mode=decoding_mode)])
    assert answer.ids == tuple(range(50, 90))
    assert isinstance(answer.end, Finished)
    assert answer.end.reason is FinishReason.STOP


@pytest.mark.parametrize("decoding_mode", DecodingMode)
def test_it_follows_its_script_over_block_borders(decoding_mode: DecodingMode) -> None:
    model = ToyModel(lambda prompt: prompt[::-1] * 10)
    [answer] = run(model, [request(model, 50, 51, 52, decoding_mode=decoding_mode)])
    assert answer.ids == (52, 51, 50) * 10


def test_its_pace_sets_the_number_of_steps() -> None:
    seen: list[Observation] = []
    model = ToyModel(pace=4, denoising=DenoisingParams(canvas_length=16))
    run(model, [request(model, *[50] * 16, max_tokens=16)], observe=seen.append)
    [block] = [o for o in seen if isinstance(o, BlockObserved)]
    assert 4 <= block.denoising_steps <= 6


@pytest.mark.parametrize("decoding_mode", DecodingMode)
def test_its_confidence_is_the_confidence_of_the_answer(decoding_mode: DecodingMode) -> None:
    model = ToyModel(confidence=0.8)
    [answer] = run(model, [request(model, 50, 51, decoding_mode=decoding_mode)])
    assert answer.ids == (50, 51)
    assert answer.end.usage.confidence == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize("decoding_mode", DecodingMode)
def test_it_tells_prompt_from_answer_however_a_context_was_put_together(decoding_mode: DecodingMode) -> None:
    """A conversation continues: the earlier answer is part of the prompt and mostly cached; the same prompt is
    repeated; a long prompt is prefilled in chunks."""
    model = ToyModel(lambda prompt: (len(prompt) % 200 + 20,) * 3)
    prompts = [range(50, 60), (*range(50, 60), 30, 30, 30, 1, 77), range(50, 60), (*range(50, 60), 88), [9] * 700]
    answers = run(model, [request(model, *prompt, decoding_mode=decoding_mode) for prompt in prompts], max_num_seqs=1)
    assert [answer.ids for answer in answers] == [(len(prompt) % 200 + 20,) * 3 for prompt in prompts]
