"""Converts samples to generation requests, and answers to text."""

from typing import Final

from diffusion_worker.engine.loop import Answer
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.events import Finished
from diffusion_worker.types.requests import DEFAULT_ANCHOR, DecodingMode, GenerationRequest
from training.tasks.sample import Sample
from training.vocabulary import EOS, decode_ids, encode_prompt, encode_text

MAX_TOKENS: Final = 128


def request_for(
    model: DiffusionModel, sample: Sample, decoding_mode: DecodingMode, from_source: bool = False, *, seed: int = 0
) -> GenerationRequest:
    """The generation request of a sample. With `from_source`, the text to edit is sent as a prediction."""
    return GenerationRequest(
        prompt_ids=tuple(encode_prompt(sample.prompt)),
        max_tokens=MAX_TOKENS,
        seed=seed,
        denoising=model.info.denoising,
        decoding_mode=decoding_mode,
        start_ids=tuple(encode_text(sample.source)) if from_source else (),
        anchor=DEFAULT_ANCHOR if from_source else 0.0,
    )


def text_of(answer: Answer) -> str:
    """The text of a finished answer."""
    assert isinstance(answer.end, Finished), answer.end
    return decode_ids([*answer.ids, EOS])
