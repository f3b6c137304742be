"""The state of a single sequence."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.engine.prefill_chunks import prefill_chunks_of
from diffusion_worker.engine.sequence import Sequence
from diffusion_worker.types.requests import DecodingMode, DenoisingParams, GenerationRequest, Penalties
from diffusion_worker.types.step_batch import CanvasResult

END = 1
DENOISING = DenoisingParams(steps=5, canvas_length=4)
REQUEST = GenerationRequest(prompt_ids=(9, 9), max_tokens=100, seed=0, denoising=DENOISING)


def sequence(request: GenerationRequest = REQUEST) -> Sequence:
    return Sequence(id=1, request=request, submitted=0.0, prefill_chunks=[request.prompt_ids])


def canvas(*ids: int) -> CanvasResult:
    return CanvasResult(
        sequence=1,
        ids=ids,
        logprobs=(-0.1,) * len(ids),
        mean_entropy=0.0,
        accepted=0,
        stable_prefix=0,
        has_converged=True,
    )


@given(
    blocks=st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=1, max_size=6),
    max_tokens=st.integers(1, 30),
)
def test_what_is_emitted_is_a_prefix_of_what_was_sealed_up_to_the_end_token_or_the_limit(
    blocks: list[list[int]], max_tokens: int
) -> None:
    it, visible, has_end = sequence(replace(REQUEST, max_tokens=max_tokens)), [], False
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


def test_it_needs_at_most_as_many_iterations_as_its_blocks_can_take() -> None:
    assert sequence(replace(REQUEST, max_tokens=9)).iterations_at_most() == 3 * 5
    assert sequence(replace(REQUEST, max_tokens=9, decoding_mode=DecodingMode.AUTOREGRESSIVE)).iterations_at_most() == 9


def test_penalties_count_sealed_output_and_what_an_earlier_attempt_kept() -> None:
    plain = replace(REQUEST, prompt_ids=(9, 8, 8, 7), kept=1)
    assert sequence(plain).penalty_counts.inputs is None
    it = sequence(replace(plain, penalties=Penalties(repetition=1.2)))
    it.open_block((8, 5, 5, 5))
    inputs = it.penalty_counts.inputs
    assert inputs is not None
    assert (list(inputs.prompt), dict(inputs.output)) == ([7, 8, 9], {7: 1, 8: 1, 5: 3})
    assert it.penalty_counts.inputs is inputs, "made once for all steps of a canvas"
    it.open_block((6, 6, 1, 1))
    assert it.penalty_counts.inputs is not None
    assert dict(it.penalty_counts.inputs.output)[6] == 2
    again = sequence(replace(plain, penalties=Penalties(presence=1.0))).penalty_counts.inputs
    assert again is not None
    assert not again.prompt, "only the repetition penalty counts the prompt"


def test_the_confidence_is_unknown_before_the_first_token() -> None:
    usage = sequence().usage()
    assert usage.confidence is None
    assert usage.tokens_per_forward == 0.0


def test_it_is_due_at_its_deadline_and_never_without_one() -> None:
    it = sequence(replace(REQUEST, deadline_s=2.0))
    assert not it.is_due(1.9)
    assert it.is_due(2.0)
    assert not sequence().is_due(1e9)


@given(ids=st.lists(st.integers(0, 9), max_size=30).map(tuple), size=st.integers(1, 8), cut=st.integers(0, 30))
def test_chunks_are_the_ids_in_order_none_empty_none_too_long_and_cut_where_asked(
    ids: tuple[int, ...], size: int, cut: int
) -> None:
    """Also of no ids: a context that another slot holds completely needs no prefill."""
    prefill_chunks = prefill_chunks_of(ids, size, cut=min(cut, len(ids)))
    assert tuple(token for chunk_ids in prefill_chunks for token in chunk_ids) == ids
    assert all(0 < len(chunk_ids) <= size for chunk_ids in prefill_chunks)
    if 0 < cut < len(ids):
        ends = [sum(map(len, prefill_chunks[: n + 1])) for n in range(len(prefill_chunks))]
        assert cut in ends
