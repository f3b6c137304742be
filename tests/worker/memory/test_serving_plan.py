"""Default context and number of slots: everything that a full batch needs fits beside the weights."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.errors import BadSetting
from diffusion_worker.memory.budget import context_bytes
from diffusion_worker.memory.pressure import PressureMonitor
from diffusion_worker.memory.serving_plan import (
    DEFAULT_CONTEXTS,
    RESERVE,
    Demand,
    ModelMemory,
    default_contexts,
    plan_serving,
)
from diffusion_worker.types.model_info import StepShape
from diffusion_worker.types.status import Pressure
from tests.worker.memory.test_budget import RELEASED

BF16 = ModelMemory(
    kv_layers=RELEASED,
    step=StepShape(vocab_size=262_144, attention_width=44_032, feed_forward_width=154_880),
    itemsize=2,
    weight_bytes=50_841_028_096,  # the released checkpoint
    max_context=262_144,
    canvas_length=256,
)
DEFAULTS = Demand(max_num_seqs=8, prefix_slots=8, max_prefill_tokens=2048)
# Card -> default context; 80 GB and 141 GB nominally and as the driver reports them.
CARDS = {
    24 * 2**30: None,
    32 * 10**9: None,
    80 * 10**9: 32_768,
    int(79.6 * 2**30): 32_768,
    141 * 10**9: 131_072,
    int(139.8 * 2**30): 131_072,
}


@pytest.mark.parametrize(("card", "context"), list(CARDS.items()))
def test_the_released_checkpoint_at_default_settings(card: int, context: int | None) -> None:
    """80 GB and 141 GB cards serve eight sequences; 24 and 32 GB cards cannot hold the weights, and the error says
    so."""
    if context is None:
        with pytest.raises(BadSetting, match=r"50841028096 for the weights, leave 0;.*--memory-limit-bytes"):
            plan_serving(BF16, DEFAULTS, card)
        return
    plan = plan_serving(BF16, DEFAULTS, card)
    assert (plan.max_context, plan.max_num_seqs) == (context, 8)
    resting = BF16.weight_bytes + plan.slots * context_bytes(RELEASED, context, 2)
    assert resting + plan.step_bytes <= (1 - RESERVE) * card
    assert PressureMonitor().update(resting, card, 0.0) is Pressure.NONE


@given(
    card=st.integers(1, 2**38),
    demand=st.builds(
        Demand,
        max_num_seqs=st.integers(1, 64),
        prefix_slots=st.integers(0, 64),
        max_prefill_tokens=st.sampled_from((1, 512, 8192)),
        max_context=st.none() | st.integers(1, 300_000),
        spare_slots=st.integers(0, 1),
    ),
    longest=st.integers(1, 262_144),
    scale=st.floats(1.0, 3.0),
)
def test_whatever_is_planned_fits_and_nothing_longer_would(
    card: int, demand: Demand, longest: int, scale: float
) -> None:
    model = replace(BF16, weight_bytes=2**34, max_context=longest)
    try:
        plan = plan_serving(model, demand, card, step_scale=scale)
    except BadSetting:
        return
    taken = (plan.slots + demand.spare_slots) * context_bytes(RELEASED, plan.max_context, 2) + plan.step_bytes
    assert model.weight_bytes + taken <= (1 - RESERVE) * card
    assert plan.max_num_seqs <= plan.slots <= plan.max_num_seqs + demand.prefix_slots
    if demand.max_context is not None:
        assert plan.max_context == min(demand.max_context, longest)
        return
    assert plan.max_num_seqs == demand.max_num_seqs
    assert plan.max_context in default_contexts(longest)
    for longer in (each for each in default_contexts(longest) if each > plan.max_context):
        with contextlib.suppress(BadSetting):
            found = plan_serving(model, replace(demand, max_context=longer), card, step_scale=scale)
            assert found.max_num_seqs < demand.max_num_seqs


@given(longest=st.integers(1, 10**6))
def test_a_default_context_never_exceeds_the_models_own(longest: int) -> None:
    found = default_contexts(longest)
    assert max(found) == min(longest, DEFAULT_CONTEXTS[0])
    assert sorted(found, reverse=True) == list(found)
    assert len(set(found)) == len(found)


def test_a_configured_context_reduces_the_batch_instead_of_the_context() -> None:
    demand = Demand(max_num_seqs=8, prefix_slots=8, max_prefill_tokens=512, max_context=131_072)
    plan = plan_serving(BF16, demand, 80 * 10**9)
    assert plan.max_context == 131_072
    assert 1 <= plan.max_num_seqs < 8
    with pytest.raises(BadSetting, match="1 sequences of 131072 tokens need"):
        plan_serving(BF16, demand, 58 * 10**9)


def test_the_prefix_cache_leaves_the_memory_below_the_level_that_would_evict_it() -> None:
    small = ModelMemory(
        kv_layers=RELEASED,
        step=StepShape(vocab_size=1, attention_width=1, feed_forward_width=1),
        itemsize=2,
        weight_bytes=2**30,
        max_context=8192,
        canvas_length=1,
    )
    card = 16 * 2**30
    plan = plan_serving(small, Demand(max_num_seqs=1, prefix_slots=1000, max_prefill_tokens=1), card)
    share = (small.weight_bytes + plan.slots * context_bytes(RELEASED, 8192, 2)) / card
    assert 0.75 < share <= 0.80
