"""The memory budget is computed before anything is allocated."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.errors import BadSetting
from diffusion_worker.memory.budget import context_bytes, fit_slots, plan, tokens_kept
from diffusion_worker.types.model_info import LayerKv, ModelSize

FULL = LayerKv(heads=2, head_dim=512, window=None)
SLIDING = LayerKv(heads=8, head_dim=256, window=1024)
RELEASED = (FULL,) * 5 + (SLIDING,) * 25  # the released checkpoint of 26 billion parameters


def test_a_sliding_layer_keeps_one_less_than_its_window() -> None:
    assert tokens_kept(SLIDING, 8192) == 1023
    assert tokens_kept(SLIDING, 100) == 100
    assert tokens_kept(FULL, 8192) == 8192


def test_the_released_checkpoint_needs_20_kib_a_token_and_a_capped_ring() -> None:
    assert context_bytes(RELEASED, 1, 2) - context_bytes(RELEASED, 0, 2) == 20_480 + 204_800
    assert context_bytes(RELEASED, 8192, 2) == 20_480 * 8192 + 204_800 * 1023


@given(wanted=st.integers(1, 64), slot=st.integers(1, 10**9), free=st.integers(1, 10**11))
def test_slots_never_exceed_what_is_wanted_or_what_is_free(wanted: int, slot: int, free: int) -> None:
    if slot > free:
        with pytest.raises(BadSetting):
            fit_slots(wanted, slot_bytes=slot, free_bytes=free)
        return
    slots = fit_slots(wanted, slot_bytes=slot, free_bytes=free)
    assert 1 <= slots <= wanted
    assert slots * slot <= free
    assert slots == wanted or (slots + 1) * slot > free


def test_weights_larger_than_the_limit_are_refused_in_words() -> None:
    with pytest.raises(BadSetting, match="leaves 0 bytes after the weights"):
        fit_slots(8, slot_bytes=100, free_bytes=-5)


SIZE = ModelSize(
    parameters=25_000_000_000,
    active_parameters=3_800_000_000,
    kv_layers=RELEASED,
    max_context=262_144,
    canvas_length=256,
    dtype="bfloat16",
    quantised=None,
)


def test_a_plan_counts_the_slots_that_weights_and_contexts_leave_room_for() -> None:
    """One byte less than weights and three contexts leaves room for two contexts."""
    one = 20_480 * 8192 + 204_800 * 1023
    room = 50_000_000_000 + 3 * one
    fitting = [
        plan(SIZE, memory_limit_bytes=limit, max_context=8192).contexts[-1].slots for limit in (room, room - 1, 10**9)
    ]
    assert fitting == [3, 2, 0]


def test_a_plan_tells_the_bytes_of_a_token_before_and_after_the_windows_are_full() -> None:
    found = plan(SIZE)
    assert (found.kv_bytes_per_token, found.kv_bytes_per_further_token) == (225_280, 20_480)
    assert [context.tokens for context in found.contexts] == [1024, 8192, 32_768, 262_144]
    assert {context.slots for context in found.contexts} == {None}
    assert found.weight_bytes["bfloat16"] == 50_000_000_000
    assert plan(SIZE, dtype="float32").kv_bytes_per_token == 2 * 225_280


@pytest.mark.parametrize(("wrong", "named"), [({"max_context": 262_145}, "--max-context"), ({"dtype": "int3"}, "int3")])
def test_a_plan_beyond_the_model_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(BadSetting, match=named):
        plan(SIZE, **wrong)


def test_a_config_without_a_dtype_requests_for_one() -> None:
    with pytest.raises(BadSetting, match="--dtype"):
        plan(replace(SIZE, dtype=None))
    assert plan(replace(SIZE, dtype=None), dtype="float32").dtype == "float32"
