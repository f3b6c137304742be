"""The memory plan of a config: the same arithmetic as that of a starting worker."""

import math
from dataclasses import replace

import pytest

from diffusion_worker.errors import BadSetting
from diffusion_worker.memory.plan import PlanOptions, plan
from diffusion_worker.memory.serving_plan import RESERVE
from diffusion_worker.types.model_info import ModelSize, StepShape
from tests.worker.memory.test_budget import RELEASED

SIZE = ModelSize(
    parameters=25_000_000_000,
    active_parameters=3_800_000_000,
    kv_layers=RELEASED,
    step=StepShape(vocab_size=262_144, attention_width=44_032, feed_forward_width=154_880),
    max_context=262_144,
    canvas_length=256,
    dtype="bfloat16",
    quantised=None,
)


def test_a_plan_counts_the_slots_that_weights_and_a_step_leave_room_for() -> None:
    """One byte less than the reserve, weights, a step and three contexts leaves room for two contexts."""
    one = 20_480 * 8192 + 204_800 * 1023
    step = plan(SIZE, PlanOptions(max_context=8192)).contexts[-1].step_bytes
    assert step > 8 * 256 * 262_144 * 2, "logits of eight rows"
    needed = 50_000_000_000 + step + 3 * one
    enough = next(limit for limit in range(int(needed / (1 - RESERVE)), 2**50) if int(limit * (1 - RESERVE)) >= needed)
    fitting = [
        plan(SIZE, PlanOptions(memory_limit_bytes=limit, max_context=8192)).contexts[-1].slots
        for limit in (enough, enough - 2, 10**9)
    ]
    assert fitting == [3, 2, 0]


def test_a_plan_tells_the_bytes_of_a_token_before_and_after_the_windows_are_full() -> None:
    found = plan(SIZE)
    assert (found.kv_bytes_per_token, found.kv_bytes_per_further_token) == (225_280, 20_480)
    assert [context.tokens for context in found.contexts] == [1024, 8192, 16_384, 32_768, 65_536, 131_072, 262_144]
    assert {context.slots for context in found.contexts} == {None}
    assert (found.default_context, found.reserve_bytes) == (None, None)
    assert found.weight_bytes["bfloat16"] == 50_000_000_000
    assert plan(SIZE, PlanOptions(dtype="float32")).kv_bytes_per_token == 2 * 225_280


@pytest.mark.parametrize(("gigabytes", "context"), [(24, None), (80, 32_768), (141, 131_072)])
def test_a_plan_names_the_context_that_a_worker_selects(gigabytes: int, context: int | None) -> None:
    limit = gigabytes * 10**9
    found = plan(SIZE, PlanOptions(memory_limit_bytes=limit))
    assert found.default_context == context
    assert found.reserve_bytes == math.ceil(0.08 * limit)
    for listed in found.contexts:
        fits = context is not None and listed.tokens <= context
        assert ((listed.slots or 0) >= found.max_num_seqs) == fits


@pytest.mark.parametrize(
    ("wrong", "named"), [(PlanOptions(max_context=262_145), "--max-context"), (PlanOptions(dtype="int3"), "int3")]
)
def test_a_plan_beyond_the_model_is_refused_by_name(wrong: PlanOptions, named: str) -> None:
    with pytest.raises(BadSetting, match=named):
        plan(SIZE, wrong)


def test_a_config_without_a_dtype_requires_one() -> None:
    with pytest.raises(BadSetting, match="--dtype"):
        plan(replace(SIZE, dtype=None))
    assert plan(replace(SIZE, dtype=None), PlanOptions(dtype="float32")).dtype == "float32"
