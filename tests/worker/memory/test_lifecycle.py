"""The model lifecycle, and which requests each state admits."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.errors import DeviceFailed, Draining, NotResident
from diffusion_worker.memory.lifecycle import (
    SERVING,
    TRANSITIONS,
    ModelLifecycle,
    _cgroup_bytes,
    _machine_bytes,
    card_usage,
    memory_in_use,
    resident_bytes,
)
from diffusion_worker.types.status import Residency


def lifecycle(state: Residency) -> ModelLifecycle:
    it = ModelLifecycle()
    it.state = state
    return it


@pytest.mark.parametrize(("old", "new"), list(itertools.product(Residency, Residency)))
def test_only_the_moves_of_the_table_are_possible(old: Residency, new: Residency) -> None:
    it = lifecycle(old)
    if new in TRANSITIONS[old] or new is old:
        it.transition(new)
        assert it.state is new
    else:
        with pytest.raises(ValueError, match=f"no transition from {old} to {new}"):
            it.transition(new)


def test_every_state_can_be_reached_and_all_but_the_last_can_be_left() -> None:
    reached, frontier = {Residency.COLD}, [Residency.COLD]
    while frontier:
        fresh = TRANSITIONS[frontier.pop()] - reached
        reached |= fresh
        frontier += fresh
    assert reached == set(Residency)
    assert [state for state in Residency if not TRANSITIONS[state]] == [Residency.DRAINING]


@pytest.mark.parametrize("state", Residency)
def test_requests_are_admitted_only_where_weights_are_in_memory(state: Residency) -> None:
    refusal = lifecycle(state).refusal()
    if state in SERVING:
        assert refusal is None
    else:
        kinds = {Residency.DRAINING: Draining, Residency.FAILED: DeviceFailed}
        assert isinstance(refusal, kinds.get(state, NotResident))
        assert refusal.retry_after_s


def test_memory_of_the_process_is_known_and_below_its_limit() -> None:
    used, limit = memory_in_use(torch.device("cpu"))
    assert 2**20 < used < limit


@given(
    total=st.integers(0, 2**38), free=st.integers(0, 2**38), reserved=st.integers(0, 2**38), share=st.floats(0.0, 1.0)
)
def test_what_the_allocator_only_keeps_is_free(total: int, free: int, reserved: int, share: float) -> None:
    allocated = int(reserved * share)
    used, limit = card_usage(free=free, total=total, reserved=reserved, allocated=allocated)
    assert (used, limit) == (max(0, total - free - (reserved - allocated)), total)
    if allocated <= reserved <= total - free:
        others = total - free - reserved
        assert used == others + allocated


def test_without_a_cgroup_all_that_runs_on_the_machine_counts(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    assert _machine_bytes(meminfo) is None
    meminfo.write_text("MemTotal:  1000 kB\nMemFree: 100 kB\nMemAvailable:  400 kB\nHugePages_Total:  3\n")
    assert _machine_bytes(meminfo) == (600 * 1024, 1000 * 1024)
    meminfo.write_text("MemTotal:  1000 kB\n")
    assert _machine_bytes(meminfo) is None


def test_what_the_process_holds_itself_is_known() -> None:
    assert resident_bytes() > 2**20


def test_a_cgroup_with_a_limit_is_read_without_the_pages_that_would_go_first(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    assert _cgroup_bytes(tmp_path) == (700, 1000), "without statistics all counts"
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 250\nactive_file 50\n")
    assert _cgroup_bytes(tmp_path) == (450, 1000)
    (tmp_path / "memory.stat").write_text("inactive_file 900\n")
    assert _cgroup_bytes(tmp_path) == (0, 1000), "read a moment apart: never negative"


@pytest.mark.parametrize("ceiling", ["max", "", "many"])
def test_a_cgroup_without_a_limit_says_nothing(tmp_path: Path, ceiling: str) -> None:
    (tmp_path / "memory.current").write_text("700")
    assert _cgroup_bytes(tmp_path) is None, "no file at all"
    (tmp_path / "memory.max").write_text(ceiling)
    assert _cgroup_bytes(tmp_path) is None
