"""One ask by itself."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.records import Ask, Reading, Recipe
from diffusion_worker.sequence import Sequence
from diffusion_worker.work import CanvasResult

END = 1
RECIPE = Recipe(steps=5, canvas_length=4)
ASK = Ask(prompt_ids=(9, 9), max_tokens=100, seed=0, recipe=RECIPE)


def sequence(ask: Ask = ASK) -> Sequence:
    return Sequence(id=1, ask=ask, submitted=0.0, pending=ask.prompt_ids, steps_to_go=ask.recipe.steps)


def canvas(*ids: int) -> CanvasResult:
    return CanvasResult(sequence=1, ids=ids, logprobs=(-0.1,) * len(ids), mean_entropy=0.0, accepted=0, is_settled=True)


@given(
    blocks=st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=1, max_size=6),
    max_tokens=st.integers(1, 30),
)
def test_what_is_emitted_is_a_prefix_of_what_was_sealed_up_to_the_end_token_or_the_limit(
    blocks: list[list[int]], max_tokens: int
) -> None:
    it, visible, has_end = sequence(replace(ASK, max_tokens=max_tokens)), [], False
    for block in blocks:
        if has_end or it.is_full:
            break
        ids, has_end = it.seal(canvas(*block), (END,))
        visible += ids
    whole = [token for block in blocks for token in block][:max_tokens]
    expected = whole[: whole.index(END)] if END in whole else whole
    assert visible == expected
    assert it.emitted == len(expected) + has_end
    assert has_end == (END in whole)


def test_it_asks_for_as_many_passes_as_its_blocks_can_take() -> None:
    assert sequence(replace(ASK, max_tokens=9)).passes_at_most() == 3 * 5
    assert sequence(replace(ASK, max_tokens=9, reading=Reading.AUTOREGRESSIVE)).passes_at_most() == 9


def test_the_confidence_is_unknown_before_the_first_token() -> None:
    usage = sequence().usage()
    assert usage.confidence is None
    assert usage.tokens_per_forward == 0.0


def test_it_is_due_at_its_deadline_and_never_without_one() -> None:
    it = sequence(replace(ASK, deadline_s=2.0))
    assert not it.is_due(1.9)
    assert it.is_due(2.0)
    assert not sequence().is_due(1e9)
