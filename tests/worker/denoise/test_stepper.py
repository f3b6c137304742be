"""Executing batches: groups, isolation of failures, released rows, and edge cases of the passes."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from diffusion_worker.denoise.exact import Padding
from diffusion_worker.denoise.stepper import Stepper
from diffusion_worker.errors import NotFinite, StepFailed
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.models.interface import PrefillContext
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.confidence import ConfidenceWeights
from diffusion_worker.types.requests import DecodingMode, DenoisingParams, SequenceId
from diffusion_worker.types.step_batch import Batch, Decode, Denoise, Prefill, StepResult, Verify

DENOISING = DenoisingParams(steps=4, canvas_length=12)


def stepper(model: Any, *, slots: int = 4) -> Stepper:
    return Stepper(model, KvCache(model.kv_layers, slots=slots, slot_tokens=64, dtype=model.dtype, device=model.device))


def denoise(sequence: SequenceId, step: int = 4, **changes: Any) -> Denoise:
    """`at` is required after a longer prompt; sequence n uses slot n - 1."""
    base = Denoise(
        sequence=sequence,
        slot=sequence - 1,
        at=1,
        block=0,
        step=step,
        opens=step == DENOISING.steps,
        denoising=DENOISING,
        seed=sequence,
    )
    return replace(base, **changes)


def append(sequence: SequenceId, *ids: int, at: int = 0, **changes: Any) -> Prefill:
    return replace(Prefill(sequence=sequence, slot=sequence - 1, ids=ids, at=at), **changes)


def test_canvases_of_different_length_advance_in_one_batch() -> None:
    it = stepper(ToyModel())
    result = it.step(
        Batch(
            prefills=(append(1, 20, 21), append(2, 30)),
            denoises=(denoise(1, at=2), denoise(2, denoising=replace(DENOISING, canvas_length=5))),
        )
    )
    assert {canvas.sequence: len(canvas.ids) for canvas in result.canvases} == {1: 12, 2: 5}


@pytest.mark.parametrize("is_exact", [False, True])
def test_rows_of_any_canvas_length_share_one_pass_and_advance_as_alone(make_model: Any, is_exact: bool) -> None:
    model = make_model(window=8)
    passes: list[tuple[int, ...]] = []
    denoise_alone, mixed = model.denoise, model._mixed_pass
    model.denoise = lambda canvas, *others: (passes.append(canvas.shape), denoise_alone(canvas, *others))[1]
    model._mixed_pass = lambda ids, canvas, *others: (passes.append(canvas.shape), mixed(ids, canvas, *others))[1]
    lengths = (12, 1, 7, 12, 3, 7)
    cut = replace(DENOISING, entropy_bound=4.0)

    def batch(*rows: int, opens: bool) -> Batch:
        prompt = tuple(range(6, 9))
        return Batch(
            prefills=tuple(append(row + 1, *prompt, 10 + row) for row in rows) if opens else (),
            denoises=tuple(
                denoise(
                    row + 1,
                    step=4 if opens else 3,
                    opens=opens,
                    at=4,
                    denoising=replace(cut, canvas_length=lengths[row]),
                    pinned_suffix=(7, 8) if row in (0, 2) else (),
                )
                for row in rows
            ),
        )

    def served(rows: tuple[int, ...]) -> dict[int, Any]:
        it = stepper(model, slots=7)
        it._padding = Padding(rows=6) if is_exact else None
        return {
            canvas.sequence: canvas for opens in (True, False) for canvas in it.step(batch(*rows, opens=opens)).canvases
        }

    together = served(tuple(range(6)))
    assert passes == [(6, 12)] * 2, "one pass a step, whatever the lengths"
    for row in range(6):
        alone, mine = served((row,))[row + 1], together[row + 1]
        assert mine.ids == alone.ids
        assert len(mine.ids) == lengths[row]
        assert mine.logprobs == (alone.logprobs if is_exact else pytest.approx(alone.logprobs, abs=1e-9))
        assert (mine.accepted, mine.stable_prefix) == (alone.accepted, alone.stable_prefix)


def test_an_iteration_has_a_bounded_number_of_passes(make_model: Any) -> None:
    """Prompt chunks, sealed canvases, canvases of twelve lengths and first tokens share one, later tokens another."""
    model = make_model()
    passes: list[str] = []
    for name in ("encode", "denoise", "_mixed_pass"):
        run = getattr(model, name)
        setattr(model, name, lambda *inputs, name=name, run=run: (passes.append(name), run(*inputs))[1])
    it = stepper(model, slots=40)
    it.step(Batch(prefills=tuple(append(n, 20, 21) for n in range(1, 36))))
    passes.clear()
    it.step(
        Batch(
            prefills=(*(append(n, 22, at=2) for n in (1, 2)), *(append(n, 23, at=2, is_seal=True) for n in (3, 4))),
            denoises=tuple(denoise(n, at=2, denoising=replace(DENOISING, canvas_length=n - 4)) for n in range(5, 17)),
            decodes=(
                *(Decode(sequence=n, slot=n - 1, ids=(22,), at=2, seed=n) for n in (17, 18)),
                *(Decode(sequence=n, slot=n - 1, ids=(20, 21), at=0, seed=n) for n in (36, 37)),
            ),
        )
    )
    assert passes == ["_mixed_pass", "encode"]


def test_without_a_mixed_pass_rows_share_passes_of_bounded_padding() -> None:
    model = ToyModel()
    it = Stepper(model, KvCache(model.kv_layers, slots=9, slot_tokens=600, dtype=model.dtype, device=model.device))
    lengths = (300, 200, 200, 100, 100, 100, 100, 100)
    it.step(Batch(prefills=tuple(append(n, *[20] * count) for n, count in enumerate(lengths, 1))))
    assert model.passes == 3, "300 alone, 200 twice, 100 five times"


def test_a_row_that_breaks_a_mixed_pass_is_lost_alone(make_model: Any) -> None:
    """Rows of the repeated passes have the results that they have in a mixed one."""
    model = make_model(window=8)

    def served(broken: int | None) -> StepResult:
        it = stepper(model)
        run, prompt = model._mixed_pass, tuple(range(6, 20))

        def brittle(ids: torch.Tensor, *others: Any) -> Any:
            if broken is not None and bool((ids == 50 + broken).any()):
                raise RuntimeError("cannot be computed")
            return run(ids, *others)

        model._mixed_pass = brittle
        try:
            it.step(Batch(prefills=(append(1, *prompt), append(2, *prompt[:4]))))
            return it.step(
                Batch(
                    prefills=(append(1, 51, 8, 9, at=14, is_seal=True), append(3, *prompt, 53)),
                    denoises=(denoise(1, at=17), denoise(2, at=4), denoise(3, at=15)),
                )
            )
        finally:
            model._mixed_pass = run

    whole = {canvas.sequence: canvas for canvas in served(None).canvases}
    assert len(whole) == 3
    for broken in (1, 3):
        result = served(broken)
        assert [fault.sequence for fault in result.faults] == [broken]
        assert {canvas.sequence for canvas in result.canvases} == {1, 2, 3} - {broken}
        for canvas in result.canvases:
            assert canvas.ids == whole[canvas.sequence].ids
            assert canvas.logprobs == pytest.approx(whole[canvas.sequence].logprobs, abs=1e-9)


def test_a_step_reports_the_most_likely_canvas_and_how_sure_it_is() -> None:
    it = stepper(ToyModel(confidence=0.9, pace=12))
    [canvas] = it.step(Batch(prefills=(append(1, 20, 21),), denoises=(denoise(1, at=2),))).canvases
    assert canvas.ids == (20, 21, 1) + (0,) * 9
    assert [round(2.718281828**logprob, 4) for logprob in canvas.logprobs] == [0.9] * 12
    assert not canvas.has_converged


def test_a_warm_start_is_what_the_first_pass_sees(make_model: Any) -> None:
    model = make_model(dtype=torch.float32)
    seen: list[torch.Tensor] = []
    real = model._mixed_pass
    model._mixed_pass = lambda ids, canvas, *others: (seen.append(canvas), real(ids, canvas, *others))[1]
    stepper(model).step(Batch(prefills=(append(1, 20),), denoises=(denoise(1, start_ids=(30, 31)),)))
    assert seen[0].tolist() == [[30, 31, 1] + [0] * 9]


def test_a_released_sequence_leaves_no_canvas_and_its_slot_serves_the_next() -> None:
    it = stepper(ToyModel(), slots=1)
    it.step(Batch(prefills=(append(1, 20),), denoises=(denoise(1),)))
    second = Batch(releases=(1,), prefills=(append(2, 30, slot=0),), denoises=(denoise(2, slot=0),))
    [canvas] = it.step(second).canvases
    assert canvas.ids[:2] == (30, 1)
    assert list(it._canvases) == [2]
    it.step(Batch(releases=(2, 7)))
    assert not it._canvases


def test_a_row_that_raises_is_found_and_its_neighbours_lose_nothing() -> None:
    class Brittle(ToyModel):
        def encode(self, ids: torch.Tensor, context: PrefillContext) -> torch.Tensor:
            if bool((ids == 99).any()):
                raise RuntimeError("cannot be computed")
            return super().encode(ids, context)

    it = stepper(Brittle())
    result = it.step(
        Batch(prefills=(append(1, 20), append(2, 99), append(3, 30)), denoises=(denoise(1), denoise(2), denoise(3)))
    )
    [fault] = result.faults
    assert fault.sequence == 2
    assert isinstance(fault.error, StepFailed)
    assert [canvas.sequence for canvas in result.canvases] == [1, 3]
    assert {canvas.sequence: canvas.ids[:2] for canvas in result.canvases} == {1: (20, 1), 3: (30, 1)}


def test_a_defect_that_is_not_of_the_pass_is_not_swallowed() -> None:
    it = stepper(ToyModel())
    with pytest.raises(KeyError):
        it.step(Batch(denoises=(denoise(5, step=2),)))  # a canvas that was never created


def test_a_slot_that_held_nan_is_clean_for_its_next_owner(make_model: Any) -> None:
    """Masked values are multiplied by zero, and zero times NaN is NaN."""
    it = stepper(make_model(dtype=torch.float32), slots=2)
    it.step(Batch(prefills=(append(1, *[7] * 40),)))
    it.cache.keys[0][0, :, :40] = float("nan")
    [fault] = it.step(Batch(denoises=(denoise(1, at=40),))).faults
    assert isinstance(fault.error, NotFinite)
    both = Batch(
        prefills=(append(3, 9, slot=0), append(2, *[7] * 40)), denoises=(denoise(3, slot=0), denoise(2, at=40))
    )
    assert it.step(both).faults == ()


def test_decoding_gives_the_token_that_a_full_pass_would_give(make_model: Any) -> None:
    """One token at a time through the cache, past the sliding window, against the whole text at once."""
    model = make_model(window=8)
    it, text = stepper(model), (20, 21, 22, 23, 24)
    [first] = it.step(Batch(decodes=(Decode(sequence=1, slot=0, ids=text, at=0, seed=0),))).tokens
    read = [first.id]
    for _ in range(15):
        at = len(text) + len(read) - 1
        item = Decode(sequence=1, slot=0, ids=(read[-1],), at=at, seed=0)
        read.append(it.step(Batch(decodes=(item,))).tokens[0].id)
    whole = torch.tensor([[*text, *read]])
    hidden = model._model.model.encoder(input_ids=whole).last_hidden_state
    expected = model.logits(hidden)[0, len(text) - 1 : -1]
    assert read == expected.argmax(-1).tolist()


def test_decoding_rows_of_different_length_together_changes_none(make_model: Any) -> None:
    model = make_model(window=8)

    def tokens(*rows: int) -> dict[SequenceId, list[int]]:
        it = stepper(model)
        found: dict[SequenceId, list[int]] = {row: [] for row in rows}
        for turn in range(10):
            decodes = tuple(
                Decode(
                    sequence=row,
                    slot=rows.index(row),
                    ids=(found[row][-1],) if turn else (20 + row,) * (3 * row),
                    at=3 * row + turn - 1 if turn else 0,
                    seed=row,
                    temperature=0.7,
                )
                for row in rows
            )
            for token in it.step(Batch(decodes=decodes)).tokens:
                found[token.sequence].append(token.id)
        return found

    alone = {row: tokens(row)[row] for row in (1, 2, 5)}
    assert tokens(1, 2, 5) == alone
    assert len({tuple(ids) for ids in alone.values()}) == 3


def test_decoding_at_temperature_zero_is_greedy_and_above_zero_is_drawn_by_seed() -> None:
    it = stepper(ToyModel(confidence=0.3), slots=4)
    decodes = [
        Decode(sequence=n, slot=n, ids=(20, 21), at=0, seed=n, temperature=t)
        for n, t in enumerate((None, 0.0, 2.0, 2.0))
    ]
    result: StepResult = it.step(Batch(decodes=tuple(decodes)))
    ids = [token.id for token in result.tokens]
    assert ids[:2] == [20, 20]
    assert ids[2] != ids[3]
    assert result.tokens[0].logprob == pytest.approx(-1.204, abs=1e-3)


@pytest.mark.parametrize("with_prompt", [False, True])
def test_a_generated_token_counts_as_certain_whether_or_not_a_prompt_ends_in_the_same_pass(
    with_prompt: bool,
) -> None:
    """The context is the beginning of a later prompt, whose surprise must not depend on what ran beside it."""
    model = ToyModel(lambda _prompt: (30, 31, 32, 33), confidence=0.3)
    weights = ConfidenceWeights(intercept=0.0, weights={"prompt_surprise": -1.0})
    model.info = replace(model.info, confidence={DecodingMode.AUTOREGRESSIVE: weights})
    it = stepper(model)

    def decode(ids: tuple[int, ...], at: int, *, ends_prompt: bool = False) -> float:
        mine = Decode(sequence=1, slot=0, ids=ids, at=at, seed=0, ends_prompt=ends_prompt)
        other = Decode(sequence=2, slot=1, ids=ids, at=at, seed=0, ends_prompt=True)
        tokens = it.step(Batch(decodes=(mine, other) if with_prompt else (mine,))).tokens
        return tokens[0].prompt_surprise

    asked = decode((20, 21), 0, ends_prompt=True)
    for at, token in enumerate((40, 41, 42), 2):
        decode((token,), at)
    assert 0.0 < decode((43,), 5, ends_prompt=True) < asked


def test_all_generated_tokens_of_a_pass_count_as_certain_whatever_the_slot_held() -> None:
    """Such as the known part of a canvas: whoever reuses the context has the surprise of an unused slot."""
    model = ToyModel(lambda _prompt: (30,), confidence=0.3)
    weights = ConfidenceWeights(intercept=0.0, weights={"prompt_surprise": -1.0})
    model.info = replace(model.info, confidence={DecodingMode.AUTOREGRESSIVE: weights})

    def surprise(it: Stepper, *decodes: tuple[int, tuple[int, ...]]) -> float:
        for at, ids in decodes:
            decode = Decode(sequence=2, slot=0, ids=ids, at=at, seed=0, ends_prompt=not at or len(ids) == 1)
            [token] = it.step(Batch(decodes=(decode,))).tokens
        return token.prompt_surprise

    answered = (0, (20, 21)), (2, (40, 41, 42, 43)), (6, (44,))
    used = stepper(model)
    assert surprise(used, (0, tuple(range(50, 60)))) > 0.0
    assert surprise(used, *answered) == surprise(stepper(model), *answered)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("is_verified", [False, True])
def test_a_sampled_row_of_no_numbers_faults_alone_in_a_vocabulary_of_any_size(
    poison: float, is_verified: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sample must be a token: an id outside the vocabulary would end the whole device."""
    model = ToyModel(vocab_size=1000)
    logits, it = model.logits, stepper(model)
    monkeypatch.setattr(model, "logits", lambda hidden: logits(hidden).masked_fill(hidden == 99, poison))
    it.step(Batch(prefills=(append(1, 99, 50), append(2, 60, 61))))
    decodes = [Decode(sequence=n, slot=n - 1, ids=(70,), at=2, seed=0, temperature=1.0) for n in (1, 2)]
    verifications = [
        Verify(sequence=n, slot=n - 1, ids=(70,), at=2, seed=0, drafted=1, closes_with=2, given=(71,), temperature=1.0)
        for n in (1, 2)
    ]
    passes = model.passes
    result = it.step(Batch(verifications=tuple(verifications)) if is_verified else Batch(decodes=tuple(decodes)))
    assert [(fault.sequence, type(fault.error)) for fault in result.faults] == [(1, NotFinite)]
    assert [each.sequence for each in (*result.tokens, *result.verifications)] == [2]
    assert model.passes == passes + 1, "not repeated row by row"
