"""The host waits for the device once per step, for any number of rows; the counting itself is tested too.

One read per step, one more if a row is constrained, and no blocking upload: all inputs of a pass go through
`host_to_device`, which queues the copy.
"""

from array import array
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from diffusion_worker.constraints.compile import compile_constraint
from diffusion_worker.constraints.inference.matcher import Matcher, open_matcher
from diffusion_worker.constraints.inference.template import template_of
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.constraints.tokens.token_trie import build_token_trie
from diffusion_worker.denoise.stepper import Stepper
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.types.requests import DenoisingParams, Penalties, Truncation
from diffusion_worker.types.step_batch import Batch, Copy, Decode, Denoise, PenaltyInputs, Prefill, Verify
from tests.worker.denoise.syncs import Syncs, counted_syncs

DENOISING = DenoisingParams(steps=8, canvas_length=12)
DEVICE = torch.device("cpu")
TRUNCATION = Truncation(top_k=9, top_p=0.9, min_p=0.01)
PENALTIES = PenaltyInputs(
    penalties=Penalties(presence=1.0, repetition=1.1), prompt=array("q", (6, 7)), output=((8, 2),)
)


def length(sequence: int) -> int:
    return 6 + sequence


def append(sequence: int) -> Prefill:
    return Prefill(sequence=sequence, slot=sequence, ids=tuple(range(6, 6 + length(sequence))), at=0)


def denoise(sequence: int, step: int, **changes: Any) -> Denoise:
    item = Denoise(
        sequence=sequence,
        slot=sequence,
        at=length(sequence),
        block=0,
        step=step,
        opens=step == DENOISING.steps,
        denoising=DENOISING,
        seed=sequence,
    )
    return replace(item, **changes)


def read(sequence: int, *, slot: int | None = None) -> Decode:
    return Decode(sequence=sequence, slot=sequence if slot is None else slot, ids=(7, 8), at=0, seed=1)


def stepper_of(model: Any, rows: int) -> Stepper:
    """A stepper whose first `rows` sequences are in the middle of a block; one slot is free."""
    cache = KvCache(model.kv_layers, slots=rows + 1, slot_tokens=64, dtype=model.dtype, device=model.device)
    stepper = Stepper(model, cache)
    stepper.step(
        Batch(prefills=tuple(map(append, range(rows))), denoises=tuple(denoise(row, 8) for row in range(rows)))
    )
    stepper.step(Batch(denoises=tuple(denoise(row, 7) for row in range(rows))))
    return stepper


def syncs_of(stepper: Stepper, batch: Batch) -> Syncs:
    with counted_syncs() as syncs:
        result = stepper.step(batch)
    assert len(result.canvases) + len(result.tokens) + len(result.verifications) == batch.rows
    return syncs


@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("experts", [1, 4])
def test_a_step_in_the_middle_of_blocks_waits_once(make_model: Any, experts: int, rows: int) -> None:
    stepper = stepper_of(make_model(dtype=torch.float32, experts=experts), rows)
    syncs = syncs_of(stepper, Batch(denoises=tuple(denoise(row, 6) for row in range(rows))))
    assert syncs.decodes.total() == 1, str(syncs)
    assert not syncs.uploads, str(syncs)


@pytest.mark.parametrize("rows", [1, 8])
def test_a_step_in_which_a_prompt_joins_waits_once(make_model: Any, rows: int) -> None:
    stepper = stepper_of(make_model(dtype=torch.float32), rows)
    joined = (*(denoise(row, 6) for row in range(rows)), denoise(rows, 8))
    syncs = syncs_of(stepper, Batch(prefills=(append(rows),), denoises=joined))
    assert syncs.decodes.total() == 1, str(syncs)
    assert not syncs.uploads, str(syncs)


@pytest.mark.parametrize("rows", [1, 8])
def test_a_step_of_autoregressive_decoding_waits_once(make_model: Any, rows: int) -> None:
    model = make_model(dtype=torch.float32)
    stepper = Stepper(model, KvCache(model.kv_layers, slots=8, slot_tokens=64, dtype=model.dtype, device=model.device))
    syncs = syncs_of(stepper, Batch(decodes=tuple(map(read, range(rows)))))
    assert syncs.decodes.total() == 1, str(syncs)
    assert not syncs.uploads, str(syncs)


def verify(sequence: int, **changes: Any) -> Verify:
    """A verification of a canvas that is drafted in the same step."""
    draft = denoise(sequence, 8, pinned_prefix=(9, 10), opens=True, temperature=0.0)
    item = Verify(
        sequence=sequence,
        slot=sequence,
        ids=(9, 10),
        at=length(sequence),
        seed=sequence,
        drafted=10,
        closes_with=11,
        draft=draft,
        temperature=1.0,
        truncation=TRUNCATION,
    )
    return replace(item, **changes)


@pytest.mark.parametrize("rows", [1, 8])
def test_drafting_and_verifying_wait_once(make_model: Any, rows: int) -> None:
    stepper = stepper_of(make_model(dtype=torch.float32), rows)
    syncs = syncs_of(stepper, Batch(verifications=tuple(verify(row) for row in range(rows))))
    assert syncs.decodes.total() == 1, str(syncs)
    assert not syncs.uploads, str(syncs)


def test_rules_that_follow_the_draft_wait_for_it_once_and_for_the_choices(make_model: Any) -> None:
    stepper = stepper_of(make_model(dtype=torch.float32), 4)
    items = (verify(0), verify(1), verify(2, penalties=PENALTIES), verify(3, penalties=PENALTIES))
    syncs = syncs_of(stepper, Batch(verifications=items))
    assert syncs.decodes.total() == 3, str(syncs)
    assert not syncs.uploads, str(syncs)


def test_a_step_with_work_of_every_kind_waits_once(make_model: Any) -> None:
    """Copies, a prompt, a seal, reads, and canvases of two lengths, pinned, anchored, greedy and sampled, truncated and
    with penalties."""
    stepper = stepper_of(make_model(dtype=torch.float32), 6)
    wide = replace(DENOISING, canvas_length=5)
    sealed = Prefill(sequence=1, slot=1, ids=tuple(range(6, 18)), at=length(1), is_seal=True)
    batch = Batch(
        releases=(4, 5),
        copies=(Copy(source=0, target=5, tokens=5),),
        prefills=(append(6), sealed),
        denoises=(
            denoise(0, 6, pinned_prefix=(9,), pinned_suffix=(8, 7), temperature=0.0),
            denoise(1, 8, at=length(1) + 12, block=1, temperature=1.5, truncation=TRUNCATION),
            denoise(2, 8, start_ids=(9, 9), anchor=0.5, penalties=PENALTIES),
            denoise(3, 6, pinned_prefix=(9,), truncation=TRUNCATION, penalties=PENALTIES),
            denoise(6, 8, denoising=wide),
        ),
        decodes=(
            Decode(
                sequence=7,
                slot=5,
                ids=(7, 8),
                at=5,
                seed=1,
                temperature=0.7,
                truncation=TRUNCATION,
                penalties=PENALTIES,
            ),
            Decode(sequence=8, slot=4, ids=(7, 8, 9), at=0, seed=1),
        ),
    )
    syncs = syncs_of(stepper, batch)
    assert syncs.decodes.total() == 1, str(syncs)
    assert not syncs.uploads, str(syncs)


@pytest.mark.parametrize("rows", [1, 8])
def test_a_step_with_templates_waits_once_more_however_many_they_are(make_model: Any, rows: int) -> None:
    stepper = stepper_of(make_model(dtype=torch.float32), rows)
    template = template_of([((9,), [(7,), (8,)])], (6,) * 10, pad_id=6)
    items = (denoise(row, 6, template=template if row % 2 == 0 else None) for row in range(rows))
    syncs = syncs_of(stepper, Batch(denoises=tuple(items)))
    assert syncs.decodes.total() == 2, str(syncs)
    assert not syncs.uploads, str(syncs)


@pytest.mark.parametrize("rows", [1, 8])
def test_a_step_with_constrained_rows_waits_once_more_however_many_they_are(make_model: Any, rows: int) -> None:
    """Constraint inference runs on the host and needs the scores of the constrained rows."""
    model = make_model(dtype=torch.float32)
    stepper, matcher = stepper_of(model, rows), any_text(model.info.vocab_size)
    batch = Batch(
        denoises=tuple(denoise(row, 6, matcher=matcher if row % 2 == 0 else None) for row in range(rows)),
        decodes=(replace(read(rows + 1, slot=rows), matcher=matcher),),
    )
    syncs = syncs_of(stepper, batch)
    assert syncs.decodes.total() == 2, str(syncs)
    assert not syncs.uploads, str(syncs)


def any_text(vocab_size: int) -> Matcher:
    """A constraint that allows every text of letters; the tokens are letters, after a pad and an end token."""
    tokens = [b"", b"", *(bytes([65 + number]) for number in range(vocab_size - 2))]
    automaton = compile_tokens(
        compile_constraint(Constraint(kind="regex", value="[A-Z]*")).automaton, build_token_trie(tokens, (1,), 0)
    )
    assert automaton is not None
    return open_matcher(automaton, 40)


REMOTE = torch.arange(6, device=DEVICE)
READS: dict[str, Callable[[], object]] = {
    "item": REMOTE[0].item,
    "truth": lambda: bool(REMOTE[0] > 0),
    "number": lambda: int(REMOTE[0]),
    "list": REMOTE.tolist,
    "copy": REMOTE.cpu,
    "array": REMOTE.numpy,
    "places": REMOTE.nonzero,
    "places of a condition": lambda: torch.where(REMOTE > 2),
    "choice by truth": lambda: REMOTE[REMOTE > 2],
    "choice by mask": lambda: REMOTE.masked_select(REMOTE > 2),
    "sameness": lambda: torch.equal(REMOTE, REMOTE),
    "within the library": lambda: torch.nn.functional.one_hot(REMOTE),
}
QUIET: dict[str, Callable[[], object]] = {
    "arithmetic": lambda: (REMOTE + 1).sum() * 2,
    "choice by place": lambda: REMOTE[REMOTE],
    "choice between two": lambda: torch.where(REMOTE > 2, REMOTE, 0),
    "slices and shapes": lambda: (len(REMOTE), REMOTE[2:], REMOTE.shape, REMOTE[None]),
    "numbers made there": lambda: torch.zeros(3, device=DEVICE) + torch.arange(3, device=DEVICE),
    "numbers that stay here": lambda: torch.tensor([1, 2]).sum().item() + 1,
}


@pytest.mark.parametrize("what", READS)
@pytest.mark.parametrize("inference", [True, False])
def test_what_the_host_must_know_is_a_read(what: str, inference: bool) -> None:
    with torch.inference_mode(inference), counted_syncs() as syncs:
        READS[what]()
    assert syncs.decodes.total() >= 1
    assert not syncs.uploads


@pytest.mark.parametrize("what", QUIET)
def test_what_can_be_queued_is_none(what: str) -> None:
    with counted_syncs() as syncs:
        QUIET[what]()
    assert str(syncs) == "none"


def test_what_has_been_fetched_can_be_looked_at_again_for_nothing() -> None:
    with counted_syncs() as syncs:
        fetched = (REMOTE * 2).cpu()
        rows = [fetched[row].tolist() for row in range(6)]
    assert rows == [0, 2, 4, 6, 8, 10]
    assert syncs.decodes.total() == 1


def test_a_blocking_upload_is_told_from_one_that_is_queued() -> None:
    with counted_syncs() as syncs:
        REMOTE[torch.tensor([1, 2]).to(DEVICE, non_blocking=True)]
        assert not syncs.uploads
        torch.tensor([1, 2], device=DEVICE)
        torch.tensor([1, 2]).to(DEVICE)
        REMOTE[[1, 2]]
        REMOTE[torch.tensor([1, 2])]
    assert syncs.uploads.total() == 4
    assert not syncs.decodes


def test_a_place_is_named_by_the_line_of_the_product(make_model: Any) -> None:
    syncs = syncs_of(stepper_of(make_model(dtype=torch.float32), 1), Batch(denoises=(denoise(0, 6),)))
    assert all(place.startswith(("denoise/", "memory/", "models/")) for place in (*syncs.decodes, *syncs.uploads)), (
        syncs
    )
