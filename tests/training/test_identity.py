"""The comparison of verified with autoregressive answers: it finds a difference, and tells rounding from a defect."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from diffusion_worker.engine.loop import Answer, run
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.requests import DecodingMode, GenerationRequest
from training.identity import Comparison, Difference, compare, difference, requests_for

PROMPT = (20, 21, 22, 23, 24)  # which the toy model repeats
REQUEST = GenerationRequest(
    prompt_ids=PROMPT,
    max_tokens=12,
    seed=1,
    denoising=ToyModel().info.denoising,
    decoding_mode=DecodingMode.AUTOREGRESSIVE,
)


def compared(dtype: str, *differences: Difference) -> Comparison:
    return Comparison(
        dtype=dtype,
        temperature=0.0,
        answers=3,
        identical=3 - len(differences),
        several_canvases=0,
        beyond_window=0,
        differences=differences,
    )


def test_equal_answers_are_counted_as_such() -> None:
    found = compare(ToyModel(), [REQUEST, replace(REQUEST, prompt_ids=PROMPT * 4, max_tokens=30)])
    assert found == replace(compared("float32"), answers=2, identical=2, several_canvases=1)


def test_another_answer_is_found_with_its_first_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the modes differ by more than rounding: the toy model is sure of its token."""

    def changed(
        model: DiffusionModel, requests: Sequence[GenerationRequest], *, max_num_seqs: int
    ) -> tuple[Answer, ...]:
        answers = tuple(run(model, requests, max_num_seqs=max_num_seqs))
        if requests[0].decoding_mode is DecodingMode.VERIFIED:
            answers = tuple(replace(each, ids=(*each.ids[:3], 99, *each.ids[4:])) for each in answers)
        return answers

    monkeypatch.setattr("training.identity.run", changed)
    found = compare(ToyModel(), [REQUEST])
    [one] = found.differences
    assert (found.identical, one.at, one.moved) == (0, 3, 0.0)
    assert one.gap > 1.0
    assert not one.is_rounding


@pytest.mark.parametrize(("verified", "at"), [((20, 21), 2), ((20, 21, 22, 23), 3), ((9,), 0)])
def test_an_answer_that_ends_elsewhere_differs_where_the_shorter_one_ends(verified: tuple[int, ...], at: int) -> None:
    assert difference(ToyModel(), REQUEST, (20, 21, 22), verified).at == at


def test_only_half_precision_excuses_a_difference_and_only_a_small_one() -> None:
    """Each of two tokens may move by the rounding of a logit."""
    small, large = Difference(at=0, gap=0.2, moved=0.1), Difference(at=0, gap=0.21, moved=0.1)
    assert compared("bfloat16", small).is_cleared
    assert not compared("bfloat16", small, large).is_cleared
    assert not compared("float32", small).is_cleared
    assert compared("float32").is_cleared


def test_requests_have_seeds_of_their_own_and_one_in_seven_is_longer_than_the_window() -> None:
    requests = requests_for(ToyModel(), 14, 1.0)
    assert len({each.seed for each in requests}) == 14
    assert {each.temperature for each in requests} == {1.0}
    assert [len(each.prompt_ids) > 256 for each in requests] == [number % 7 == 5 for number in range(14)]
