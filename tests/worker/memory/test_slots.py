"""A slot has one owner, and only an identical prefix is reused."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.memory.slots import MIN_REUSE, MIN_SNAPSHOT, SlotTable
from diffusion_worker.types.model_info import LayerKv
from diffusion_worker.types.step_batch import Copy

FULL, RING = LayerKv(heads=1, head_dim=1, window=None), LayerKv(heads=1, head_dim=1, window=21)
SYSTEM = tuple(range(100, 160))


def table(slots: int = 4, *, layers: tuple[LayerKv, ...] = (FULL, RING), **more: bool) -> SlotTable:
    return SlotTable(layers, slots, itemsize=4, **more)


def fill(it: SlotTable, owner: int, ids: tuple[int, ...]) -> int:
    allocation = it.acquire(owner, ids, at_most=len(ids))
    it.extend(allocation.slot, ids[allocation.reused :])
    return allocation.slot


def test_the_third_request_with_a_long_common_beginning_reuses_it_although_rings_have_wrapped() -> None:
    it = table()
    it.release(fill(it, 1, (*SYSTEM, 1, 2)))
    second = (*SYSTEM, 3, 4)
    allocation = it.acquire(2, second, at_most=len(second))
    assert (allocation.reused, allocation.boundary) == (0, len(SYSTEM)), (
        "its ring has gone on: nothing to copy, but a hint"
    )
    it.extend(allocation.slot, SYSTEM)
    copy = it.snapshot(allocation.slot)
    assert copy is not None
    it.extend(allocation.slot, second[len(SYSTEM) :])
    third = it.acquire(3, (*SYSTEM, 5, 6), at_most=99)
    assert third.reused == len(SYSTEM)
    assert third.copy == Copy(source=copy.target, target=third.slot, tokens=len(SYSTEM))


def test_without_rings_any_common_beginning_is_reused() -> None:
    it = table(layers=(FULL,))
    it.release(fill(it, 1, (*SYSTEM, 1, 2)))
    assert it.acquire(2, (*SYSTEM, 3), at_most=99).reused == len(SYSTEM)
    assert it.acquire(3, (*SYSTEM[:30], 3), at_most=20).reused == 20, "no more than may be"


def test_a_beginning_too_short_to_be_worth_a_copy_is_computed() -> None:
    it = table()
    it.release(fill(it, 1, SYSTEM[: MIN_REUSE - 1]))
    assert it.acquire(2, SYSTEM, at_most=99).reused == 0


def test_the_context_unused_for_longest_goes_first() -> None:
    it = table(3)
    texts = [tuple(range(n, n + 20)) for n in (100, 200, 300)]
    slots = [fill(it, n, text) for n, text in enumerate(texts)]
    for slot in (slots[1], slots[0], slots[2]):
        it.release(slot)
    assert it.acquire(9, (5,) * 20, at_most=20).slot == slots[1]


def test_a_beginning_that_others_are_copied_from_outlives_their_contexts() -> None:
    """More of them than there are slots: the beginning is in use, though no sequence owns its slot."""
    it = table(3)
    it.release(fill(it, 1, SYSTEM))
    for owner in range(2, 9):
        text = (*SYSTEM, owner, owner)
        allocation = it.acquire(owner, text, at_most=len(text))
        assert allocation.reused == len(SYSTEM)
        it.extend(allocation.slot, text[allocation.reused :])
        it.release(allocation.slot)


def test_a_few_tokens_more_are_not_worth_a_snapshot() -> None:
    it = table()
    it.release(fill(it, 1, SYSTEM))
    for owner, more in enumerate((MIN_SNAPSHOT - 1, MIN_SNAPSHOT), 2):
        common = (*SYSTEM, *range(300, 300 + more))
        it.release(fill(it, 9, (*common, 1, 2)))
        assert it.acquire(owner, (*common, 3, 4), at_most=999).boundary == (len(common) if more == MIN_SNAPSHOT else 0)


def test_contexts_for_templates_share_no_beginning_with_others_if_they_have_weights_of_their_own() -> None:
    for has_template_weights in (False, True):
        it = table(has_template_weights=has_template_weights)
        it.release(fill(it, 1, SYSTEM))
        allocation = it.acquire(2, (*SYSTEM, 1), at_most=99, fills=True)
        assert allocation.reused == (0 if has_template_weights else len(SYSTEM))
        it.extend(allocation.slot, (*SYSTEM, 1)[allocation.reused :])
        it.release(allocation.slot)
        assert it.acquire(3, (*SYSTEM, 1), at_most=99, fills=True).reused == len(SYSTEM) + 1


def test_what_is_spoilt_is_not_kept_and_exact_tables_keep_nothing() -> None:
    it = table()
    it.release(fill(it, 1, SYSTEM), retain=False)
    assert it.retained == 0
    exact = table(is_reusing=False)
    exact.release(fill(exact, 1, SYSTEM))
    allocation = exact.acquire(2, SYSTEM, at_most=99)
    assert (exact.retained, allocation.reused, allocation.copy, allocation.boundary) == (0, 0, None, 0)


@given(st.randoms(use_true_random=False), st.integers(1, 5), st.booleans())
def test_a_copy_done_in_the_order_told_always_holds_what_the_table_says(
    dice: Random, slots: int, has_ring: bool
) -> None:
    """An artificial cache next to the slot table: for each slot its full layer, and the current length of its ring
    buffer."""
    it = table(slots, layers=(FULL, RING) if has_ring else (FULL,))
    kept: list[list[int]] = [[] for _ in range(slots)]
    owners: dict[int, int] = {}

    def carry_out(copy: Copy | None) -> None:
        if copy is not None:
            source = kept[copy.source]
            wrapped = has_ring and len(source) > 20
            assert copy.tokens == len(source) or not wrapped, "a ring that has wrapped holds one length only"
            kept[copy.target] = source[: copy.tokens]

    for owner in range(40):
        if owners and (not it.free or dice.random() < 0.4):
            it.release(owners.pop(dice.choice(list(owners))), retain=dice.random() < 0.8)
        ids = [*SYSTEM[: dice.randint(1, 50)], *(dice.randint(0, 1) for _ in range(dice.randint(0, 8)))]
        allocation = it.acquire(owner, ids, at_most=len(ids) - dice.randint(0, 1))
        assert allocation.slot not in owners.values()
        carry_out(allocation.copy)
        kept[allocation.slot] = (
            kept[allocation.slot][: allocation.reused] if allocation.copy is None else kept[allocation.slot]
        )
        assert kept[allocation.slot] == ids[: allocation.reused], "what is reused is a true beginning"
        cut = max(allocation.reused, allocation.boundary)
        for part in (ids[allocation.reused : cut], ids[cut:]):
            it.extend(allocation.slot, part)
            kept[allocation.slot] += part
            if len(kept[allocation.slot]) == allocation.boundary:
                copy = it.snapshot(allocation.slot)
                assert copy is None or copy.target not in (*owners.values(), allocation.slot)
                carry_out(copy)
        owners[owner] = allocation.slot
    assert it.free == slots - len(owners)
