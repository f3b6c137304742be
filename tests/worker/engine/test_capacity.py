"""Whether an ask fits in at all; who is refused learns which field is at fault."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.engine.capacity import Limits
from diffusion_worker.errors import OutOfRange, PromptTooLong
from diffusion_worker.types.generation import DenoisingParams, GenerationRequest

LIMITS = Limits(max_num_seqs=1, max_waiting=0, max_context=64)
ASK = GenerationRequest(prompt_ids=(5,), max_tokens=8, seed=0, denoising=DenoisingParams())


@given(prompt=st.integers(1, 100), max_tokens=st.integers(1, 100))
def test_prompt_and_answer_fit_exactly_if_together_they_are_no_longer_than_the_context(
    prompt: int, max_tokens: int
) -> None:
    ask = replace(ASK, prompt_ids=(5,) * prompt, max_tokens=max_tokens)
    if prompt + max_tokens <= 64:
        LIMITS.check(ask, 10)
    else:
        with pytest.raises(PromptTooLong, match=f"make {prompt + max_tokens}, the context holds 64"):
            LIMITS.check(ask, 10)


@pytest.mark.parametrize(
    ("field", "param"), [("prompt_ids", "messages"), ("start_ids", "prediction"), ("suffix_ids", "suffix")]
)
@pytest.mark.parametrize(("token", "is_known"), [(-1, False), (0, True), (9, True), (10, False)])
def test_ids_outside_the_vocabulary_are_refused_by_the_name_of_their_field(
    field: str, param: str, token: int, is_known: bool
) -> None:
    ask = replace(ASK, **{field: (5, token)})
    if is_known:
        LIMITS.check(ask, 10)
    else:
        with pytest.raises(OutOfRange, match="vocabulary of 10") as wrong:
            LIMITS.check(ask, 10)
        assert wrong.value.param == param
