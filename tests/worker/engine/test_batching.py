"""Selection of the work of one iteration, and its order."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.engine.batching import BatchItems, Budget, compose
from diffusion_worker.engine.prefill_chunks import prefill_chunks_of
from diffusion_worker.engine.sequence import Sequence
from diffusion_worker.memory.slots import Allocation
from diffusion_worker.types.requests import DecodingMode, DenoisingParams, GenerationRequest
from diffusion_worker.types.step_batch import TokenResult

CANVAS, CHUNK = 4, 5
REQUEST = GenerationRequest(
    prompt_ids=(9, 9, 9), max_tokens=100, seed=0, denoising=DenoisingParams(steps=3, canvas_length=CANVAS)
)
KINDS = ("prompt", "last of a prompt", "seal", "step", "read", "verification")


def placed(number: int, kind: str) -> Sequence:
    """A sequence that has a slot and needs work of this `kind`."""
    prompt = (9,) * (12 if kind == "prompt" else 3)
    modes = {"read": DecodingMode.AUTOREGRESSIVE, "verification": DecodingMode.VERIFIED}
    decoding_mode = modes.get(kind, DecodingMode.DIFFUSION)
    request = replace(REQUEST, prompt_ids=prompt, decoding_mode=decoding_mode)
    it = Sequence(id=number, request=request, submitted=0.0, prefill_chunks=prefill_chunks_of(prompt, CHUNK))
    it.allocate(Allocation(slot=number, reused=0, copy=None, boundary=0), chunk=CHUNK)
    if kind in ("seal", "step"):
        it.record_prefill(prompt)
    if kind == "seal":
        it.open_block((5,) * CANVAS)
    if kind == "verification":
        token = TokenResult(sequence=number, id=5, logprob=0.0)
        it.record_token(token, prompt)
        it.emit((token,), (), is_late=False)
    return it


def of(positions: int | None, prompt_tokens: int = 1000, **others: bool) -> Budget:
    return Budget(positions=positions, prompt_tokens=prompt_tokens, **others)


def positions(parts: BatchItems) -> int:
    return (
        sum(len(append.ids) for append in parts.prefills)
        + sum(denoise.denoising.canvas_length for denoise in parts.denoises)
        + sum(len(read.ids) for read in parts.decodes)
        + sum(each.count + (CANVAS if each.draft else 0) for each in parts.verifications)
    )


def taking_part(parts: BatchItems) -> set[int]:
    return {part.sequence for part in (*parts.prefills, *parts.denoises, *parts.verifications, *parts.decodes)}


@given(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=12), budget=st.integers(1, 60), turned=st.booleans())
def test_the_budget_is_exceeded_by_nobody_but_a_single_one(kinds: list[str], budget: int, turned: bool) -> None:
    running = [placed(number, kind) for number, kind in enumerate(kinds)]
    parts = compose(running, lambda each: -each.id if turned else each.id, of(budget))
    assert taking_part(parts), "somebody always gets on"
    assert positions(parts) <= budget or len(taking_part(parts)) == 1


@given(kinds=st.lists(st.sampled_from(KINDS), max_size=12))
def test_without_a_budget_everybody_advances(kinds: list[str]) -> None:
    parts = compose([placed(number, kind) for number, kind in enumerate(kinds)], lambda each: each.id, of(None))
    assert taking_part(parts) == set(range(len(kinds)))


def test_sealed_canvases_go_before_steps_and_steps_before_prompts_whatever_their_keys() -> None:
    running = [placed(1, "prompt"), placed(2, "step"), placed(3, "seal")]
    order = []
    while running:
        [first] = taking_part(compose(running, lambda each: each.id, of(1)))
        order.append(first)
        running = [each for each in running if each.id != first]
    assert order == [3, 2, 1]


def test_of_the_same_kind_the_lowest_key_goes_first() -> None:
    running = [placed(number, "step") for number in range(4)]
    assert taking_part(compose(running, lambda each: -each.id, of(2 * CANVAS))) == {2, 3}


@pytest.mark.parametrize("kinds", [("step", "verification"), ("verification", "step")])
def test_verifications_and_canvas_steps_go_by_their_keys(kinds: tuple[str, str]) -> None:
    """Otherwise steps would wait until no verified sequence is left."""
    running = [placed(number, kind) for number, kind in enumerate(kinds)]
    for first, second in ((0, 1), (1, 0)):
        keys = {first: 1.0, second: 2.0}
        assert taking_part(compose(running, lambda each, keys=keys: keys[each.id], of(2 * CANVAS))) == {first}


def test_a_canvas_is_not_denoised_before_the_last_part_of_its_prompt_goes_in() -> None:
    parts = compose([placed(1, "prompt"), placed(2, "last of a prompt")], lambda each: each.id, of(None))
    assert [len(append.ids) for append in parts.prefills] == [3, CHUNK] or [
        len(append.ids) for append in parts.prefills
    ] == [CHUNK, 3]
    assert [(denoise.sequence, denoise.at) for denoise in parts.denoises] == [(2, 3)]


def test_a_long_prompt_in_parts_holds_nobody_up() -> None:
    others = [placed(1, "step"), placed(2, "step")]
    long = placed(3, "prompt")
    while len(long.pending) > 1:
        parts = compose([long, *others], lambda each: each.id - 100.0 * (each is long), of(2 * CANVAS + CHUNK))
        assert {denoise.sequence for denoise in parts.denoises} == {1, 2}
        [append] = parts.prefills
        assert len(append.ids) <= CHUNK
        long.record_prefill(append.ids)


@given(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=12), tokens=st.integers(1, 30), cuts=st.booleans())
def test_prompts_share_their_tokens_and_nothing_else_counts(kinds: list[str], tokens: int, cuts: bool) -> None:
    running = [placed(number, kind) for number, kind in enumerate(kinds)]
    parts = compose(running, lambda each: each.id, of(None, tokens, cuts_chunks=cuts))
    assert taking_part(parts)
    others = {number for number, kind in enumerate(kinds) if kind in ("seal", "step", "verification")}
    assert others <= taking_part(parts)
    read = [len(each.ids) for each in (*parts.prefills, *parts.decodes) if each.sequence not in others]
    assert sum(read) <= tokens or (not cuts and len(read) == 1)
    waiting = sum(len(each.pending[0]) for each in running if each.id not in others)
    if cuts:
        assert sum(read) == min(tokens, waiting), "no token of the budget is left over"


def test_a_chunk_that_is_cut_continues_where_it_ended_and_denoises_once_it_is_complete() -> None:
    it = placed(1, "prompt")
    read = []
    while it.pending:
        parts = compose([it], lambda each: each.id, of(None, 3))
        [prefill] = parts.prefills
        assert (prefill.at, bool(parts.denoises)) == (len(read), len(read) + len(prefill.ids) == 12)
        read += prefill.ids
        it.record_prefill(prefill.ids)
    assert tuple(read) == it.request.prompt_ids


def test_a_prompt_that_a_decode_would_end_is_read_in_parts_first() -> None:
    it = placed(1, "last of a prompt")
    it.request = replace(it.request, decoding_mode=DecodingMode.AUTOREGRESSIVE)
    parts = compose([it], lambda each: each.id, of(None, 2))
    assert [prefill.ids for prefill in parts.prefills] == [(9, 9)]
    assert not parts.decodes
    it.record_prefill((9, 9))
    parts = compose([it], lambda each: each.id, of(None, 2))
    assert [(decode.ids, decode.at) for decode in parts.decodes] == [((9,), 2)]


def test_a_chunk_is_cut_to_the_positions_that_other_rows_leave() -> None:
    """Otherwise a prompt would wait as long as any canvas is denoised."""
    step, long = placed(1, "step"), placed(2, "prompt")
    read = []
    while long.pending:
        parts = compose([step, long], lambda each: each.id, of(2 * CANVAS + 2))
        assert positions(parts) <= 2 * CANVAS + 2
        assert 1 in taking_part(parts)
        [prefill] = parts.prefills
        read.append(len(prefill.ids))
        long.record_prefill(prefill.ids)
    assert read == [CHUNK, CHUNK, 2]
    tight = placed(3, "last of a prompt")
    assert [len(each.ids) for each in compose([step, tight], lambda each: each.id, of(2 * CANVAS)).prefills] == [2]


def test_without_cuts_a_chunk_longer_than_the_budget_does_not_wait_for_canvases() -> None:
    parts = compose([placed(1, "step"), placed(2, "prompt")], lambda each: each.id, of(None, 2, cuts_chunks=False))
    assert taking_part(parts) == {1, 2}


def test_without_cuts_a_chunk_waits_until_it_fits() -> None:
    """In exact mode the passes of a sequence are its own."""
    running = [placed(1, "last of a prompt"), placed(2, "prompt")]
    parts = compose(running, lambda each: each.id, of(None, 6, cuts_chunks=False))
    assert [prefill.sequence for prefill in parts.prefills] == [1]
    parts = compose(running[1:], lambda each: each.id, of(None, 6, cuts_chunks=False))
    assert [len(prefill.ids) for prefill in parts.prefills] == [CHUNK]
