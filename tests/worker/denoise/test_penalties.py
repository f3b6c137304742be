"""Penalties change logits by vLLM's formulas and count what a left-to-right decoder would have seen."""

from array import array
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.denoise.canvas import Canvas, fresh
from diffusion_worker.denoise.penalties import CanvasText, adjustments, penalised
from diffusion_worker.denoise.pins import pins_of
from diffusion_worker.denoise.score import CanvasLogits, Sampling, score
from diffusion_worker.errors import OutOfRange
from diffusion_worker.types.requests import DenoisingParams, Penalties
from diffusion_worker.types.step_batch import Decode, Denoise, PenaltyInputs

VOCAB, CANVAS, END, PAD = 11, 6, 1, 0
penalties = st.builds(
    Penalties,
    presence=st.floats(-2, 2, width=32),
    frequency=st.floats(-2, 2, width=32),
    repetition=st.floats(0.5, 2, width=32),
    logit_bias=st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-9, 9, width=32), max_size=3).map(
        lambda biases: tuple(sorted(biases.items()))
    ),
)
tokens = st.lists(st.integers(0, VOCAB - 1), max_size=8)


def by_vllm(logits: torch.Tensor, wanted: Penalties, prompt: list[int], output: list[int]) -> torch.Tensor:
    """Logits [vocab] after vLLM's `logit_bias` and `apply_penalties`, written out token by token."""
    found = logits.clone()
    for token, bias in wanted.logit_bias:
        found[token] += bias
    for token in range(VOCAB):
        if token in (*prompt, *output):
            found[token] = found[token] / wanted.repetition if found[token] > 0 else found[token] * wanted.repetition
        found[token] -= wanted.frequency * output.count(token)
        found[token] -= wanted.presence * (token in output)
    return found


def inputs(wanted: Penalties, prompt: list[int], output: list[int]) -> PenaltyInputs:
    counts = tuple((token, output.count(token)) for token in dict.fromkeys(output))
    return PenaltyInputs(penalties=wanted, prompt=array("q", sorted(set(prompt))), output=counts)


def denoise(wanted: PenaltyInputs | None, *, pinned_prefix: tuple[int, ...] = ()) -> Denoise:
    return Denoise(
        sequence=0,
        slot=0,
        at=0,
        block=0,
        step=3,
        opens=False,
        denoising=DenoisingParams(canvas_length=CANVAS),
        seed=0,
        penalties=wanted,
        pinned_prefix=pinned_prefix,
    )


def canvas(ids: list[int], accepted: list[bool]) -> Canvas:
    made = fresh(torch.tensor(ids), 1, torch.float32)
    made.accepted.copy_(torch.tensor(accepted))
    return made


def held(items: list[Denoise], canvases: list[Canvas], logits: torch.Tensor) -> CanvasLogits:
    """The logits that a step works with, at temperature 1."""
    pins = pins_of(items, CANVAS, logits.device)
    text = CanvasText(
        ids=torch.stack([each.ids for each in canvases]), canvases=canvases, pins=pins, uncounted=(END, PAD)
    )
    adjust = adjustments(items, text, logits.shape[-1])
    return CanvasLogits(raw=logits, cap=0.0, temperature=torch.ones(len(items)), pins=pins, adjust=adjust)


def adjusted(items: list[Denoise], canvases: list[Canvas], logits: torch.Tensor) -> torch.Tensor:
    """[rows, canvas, vocab] after penalties and pins."""
    return held(items, canvases, logits).annealed(range(len(items)))


@given(penalties, tokens, tokens, st.integers(0, 2**31))
def test_the_next_token_has_the_logits_that_vllm_computes(
    wanted: Penalties, prompt: list[int], output: list[int], seed: int
) -> None:
    logits = torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(seed))
    plain = Decode(sequence=0, slot=0, ids=(3,), at=0, seed=0)
    asking = Decode(sequence=1, slot=1, ids=(3,), at=0, seed=0, penalties=inputs(wanted, prompt, output))
    found = penalised([plain, asking], logits)
    assert torch.equal(found[0], logits[0])
    torch.testing.assert_close(found[1], by_vllm(logits[1], wanted, prompt, output))


@given(
    penalties,
    tokens,
    tokens,
    st.lists(st.integers(2, VOCAB - 1), min_size=CANVAS, max_size=CANVAS),
    st.lists(st.booleans(), min_size=CANVAS, max_size=CANVAS),
    st.integers(0, 2**31),
)
def test_a_position_counts_the_prompt_the_output_and_accepted_tokens_before_it(
    wanted: Penalties, prompt: list[int], output: list[int], ids: list[int], accepted: list[bool], seed: int
) -> None:
    """However many positions are adjusted at a time."""
    logits = torch.randn(2, CANVAS, VOCAB, generator=torch.Generator().manual_seed(seed))
    items = [denoise(inputs(wanted, prompt, output)), denoise(None)]
    whole = held(items, [canvas(ids, accepted)] * 2, logits)
    width = 1 + seed % CANVAS
    blocks = [slice(first, min(first + width, CANVAS)) for first in range(0, CANVAS, width)]
    found = torch.stack([torch.cat([whole.adjusted(row, block) for block in blocks]) for row in range(2)])
    for position in range(CANVAS):
        seen = [*output, *(ids[place] for place in range(position) if accepted[place])]
        torch.testing.assert_close(found[0, position], by_vllm(logits[0, position], wanted, prompt, seen))
    assert torch.equal(found[1], logits[1]), "a row that asks for nothing is not touched"


def test_the_end_of_a_text_is_not_counted() -> None:
    """End tokens and padding fill the rest of a canvas; counting them would push them out again."""
    wanted = inputs(Penalties(frequency=2.0, presence=2.0), [], [])
    logits = torch.zeros(1, CANVAS, VOCAB)
    found = adjusted([denoise(wanted)], [canvas([5, END, PAD, PAD, PAD, PAD], [True] * CANVAS)], logits)
    assert not found[..., [END, PAD]].any()
    assert found[0, 1:, 5].tolist() == [-4.0] * (CANVAS - 1)


def test_pinned_positions_keep_their_token_and_count() -> None:
    wanted = inputs(Penalties(presence=2.0), [], [])
    items = [denoise(wanted, pinned_prefix=(5, 5))]
    logits = torch.zeros(1, CANVAS, VOCAB)
    logits[..., 7] = 1.0
    whole = held(items, [canvas([5, 5, 7, 7, 7, 7], [False] * CANVAS)], logits)
    found = score(whole, Sampling(keys=(), uniforms=None, asked={}))
    assert found.surest.tolist() == [[5, 5, 7, 7, 7, 7]]
    assert found.entropy[0, :2].tolist() == [0.0, 0.0]
    assert whole.annealed([0])[0, 2:, 5].tolist() == [-2.0] * 4


def test_the_most_likely_token_is_that_after_penalties_and_its_log_probability_is_the_models() -> None:
    wanted = inputs(Penalties(presence=2.0), [], [4])
    logits = torch.zeros(1, CANVAS, VOCAB)
    logits[..., 4], logits[..., 6] = 3.0, 2.0
    whole = held([denoise(wanted)], [canvas([4] * CANVAS, [False] * CANVAS)], logits)
    found = score(whole, Sampling(keys=(), uniforms=None, asked={}))
    assert found.surest.tolist() == [[6] * CANVAS]
    torch.testing.assert_close(found.logprob, logits.log_softmax(-1)[..., 6])


def test_a_step_does_not_go_through_a_long_prompt_token_by_token() -> None:
    """It would hold up every row of the batch, at every step."""

    class Prompt(array):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[int]:
            raise AssertionError

        __contains__ = __getitem__ = __iter__  # type: ignore[assignment]

    wanted = PenaltyInputs(penalties=Penalties(repetition=2.0), prompt=Prompt("q", (3, 5)), output=((4, 1),))
    item = Decode(sequence=0, slot=0, at=0, ids=(1,), seed=0, penalties=wanted)
    assert penalised([item], torch.ones(1, VOCAB)).tolist() == [[1, 1, 1, 0.5, 0.5, 0.5, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("name", "value"), [("presence", 2.1), ("frequency", -2.1), ("repetition", 0.0), ("logit_bias", ((1, 101.0),))]
)
def test_values_beyond_the_bounds_are_refused(name: str, value: object) -> None:
    with pytest.raises(OutOfRange):
        Penalties(**{name: value})  # type: ignore[arg-type]
