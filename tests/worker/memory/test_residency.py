"""Where the weights are, and what that means for asks."""

import itertools

import pytest
import torch

from diffusion_worker.errors import Draining, NotResident
from diffusion_worker.memory.residency import MOVES, SERVING, Residence, memory_in_use
from diffusion_worker.records import Residency


def residence(state: Residency) -> Residence:
    it = Residence()
    it.state = state
    return it


@pytest.mark.parametrize(("old", "new"), list(itertools.product(Residency, Residency)))
def test_only_the_moves_of_the_table_are_possible(old: Residency, new: Residency) -> None:
    it = residence(old)
    if new in MOVES[old] or new is old:
        it.move(new)
        assert it.state is new
    else:
        with pytest.raises(ValueError, match=f"no move from {old} to {new}"):
            it.move(new)


def test_every_state_can_be_reached_and_all_but_the_last_can_be_left() -> None:
    reached, frontier = {Residency.COLD}, [Residency.COLD]
    while frontier:
        fresh = MOVES[frontier.pop()] - reached
        reached |= fresh
        frontier += fresh
    assert reached == set(Residency)
    assert [state for state in Residency if not MOVES[state]] == [Residency.DRAINING]


@pytest.mark.parametrize("state", Residency)
def test_asks_are_admitted_only_where_weights_are_in_memory(state: Residency) -> None:
    refusal = residence(state).refusal()
    if state in SERVING:
        assert refusal is None
    else:
        assert isinstance(refusal, Draining if state is Residency.DRAINING else NotResident)
        assert refusal.retry_after_s


def test_memory_of_the_process_is_known_and_below_its_limit() -> None:
    used, limit = memory_in_use(torch.device("cpu"))
    assert 2**20 < used < limit
