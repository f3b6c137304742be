"""The waiting queue: the next sequence to schedule, the sequence to preempt, and the predicted wait."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.engine.cost_model import CostModel
from diffusion_worker.engine.queue import MAX_PREEMPTIONS, PREEMPTION_WORK_RATIO, WaitingQueue
from diffusion_worker.engine.sequence import Sequence
from diffusion_worker.types.requests import DecodingMode, DenoisingParams, GenerationRequest
from diffusion_worker.types.step_batch import Batch, Decode, Denoise

REQUEST = GenerationRequest(
    prompt_ids=(9,), max_tokens=2, seed=0, denoising=DenoisingParams(), decoding_mode=DecodingMode.AUTOREGRESSIVE
)


def of_work(iterations: int, *, submitted: float = 0.0, **changes: Any) -> Sequence:
    """Before any observation, an autoregressive request is expected to generate half of `max_tokens`."""
    request = replace(REQUEST, max_tokens=2 * iterations, **changes)
    return Sequence(id=iterations, request=request, submitted=submitted, prefill_chunks=[request.prompt_ids])


def line(*waiting: Sequence) -> WaitingQueue:
    """A waiting queue with a cost model in which every iteration takes a second."""
    cost_model = CostModel()
    cost_model.record_step(1.0, Batch(decodes=(Decode(sequence=1, slot=0, ids=(9,), at=0, seed=0),)))
    it = WaitingQueue(cost_model)
    for sequence in waiting:
        it.add(sequence)
    return it


@given(works=st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_of_those_who_came_together_the_one_with_least_work_goes_first(works: list[int]) -> None:
    it, served = line(*map(of_work, works)), []
    while best := it.first(0.0):
        it.remove(best)
        served.append(best.id)
    assert served == sorted(works)


@given(arrivals=st.lists(st.tuples(st.floats(0.0, 200.0), st.integers(1, 60)), min_size=1, max_size=40))
def test_who_came_later_than_ones_own_work_takes_never_goes_first_so_nobody_starves(
    arrivals: list[tuple[float, int]],
) -> None:
    coming = sorted((of_work(work, submitted=at) for at, work in arrivals), key=lambda each: each.submitted)
    it, now, served = line(), 0.0, 0
    while coming or len(it):
        if not len(it):
            now = max(now, coming[0].submitted)
        while coming and coming[0].submitted <= now:
            it.add(coming.pop(0))
        best = it.first(now)
        assert best is not None
        it.remove(best)
        assert all(best.submitted <= other.submitted + other.id for other in it)
        now, served = now + best.id, served + 1
    assert served == len(arrivals)


def test_a_deadline_that_comes_near_makes_urgent() -> None:
    short, long = of_work(3), of_work(20, deadline_s=60.0)
    it = line(short, long)
    assert it.first(0.0) is short
    assert it.first(39.0) is short, "as long as the short one has aged more than the slack has shrunk"
    tight = of_work(20, deadline_s=21.0)
    it.add(tight)
    assert it.first(0.0) is tight


def test_who_has_waited_past_its_deadline_is_overdue_and_nobody_else() -> None:
    late, patient = of_work(1, deadline_s=5.0), of_work(1)
    it = line(late, patient)
    assert it.overdue(4.9) == []
    assert it.overdue(5.0) == [late]


def test_a_victim_has_more_than_so_many_times_the_work_of_whoever_waits() -> None:
    it, at_most = line(of_work(5)), int(5 * PREEMPTION_WORK_RATIO)
    assert it.victim([of_work(at_most)], 0.0, is_full=True) is None
    bigger, biggest = of_work(at_most + 1), of_work(at_most + 2)
    assert it.victim([bigger, biggest], 0.0, is_full=True) is biggest
    assert it.victim([bigger, biggest], 0.0, is_full=False) is None, "there is a place without it"
    assert line().victim([biggest], 0.0, is_full=True) is None, "the queue is empty"


def test_nobody_makes_way_again_and_again() -> None:
    it, running = line(of_work(1)), of_work(100)
    for _ in range(MAX_PREEMPTIONS):
        assert it.victim([running], 0.0, is_full=True) is running
        running.preempt(0.0)
    assert it.victim([running], 0.0, is_full=True) is None


def test_who_is_more_urgent_does_not_make_way_however_much_it_has_left() -> None:
    it = line(of_work(1, submitted=500.0))
    assert it.victim([of_work(100)], 500.0, is_full=True) is None, "it has aged beyond its work"
    assert it.victim([of_work(100, submitted=500.0, deadline_s=100.0)], 500.0, is_full=True) is None


def waits(it: WaitingQueue, running: list[Sequence], request: Sequence, rows: int = 1) -> float:
    predicted_wait = it.predict_wait(running, rows, 0.0, request)
    assert predicted_wait is not None
    return predicted_wait.wait_s


def test_everyone_ahead_counts_and_who_would_make_way_does_not() -> None:
    assert waits(line(), [], of_work(5)) == 0.0
    assert waits(line(), [of_work(10)], of_work(5)) == 10.0
    assert waits(line(of_work(3)), [of_work(10)], of_work(5)) == 13.0
    assert waits(line(of_work(3), of_work(8)), [of_work(10)], of_work(5)) == 13.0, "behind it"
    assert waits(line(), [of_work(100)], of_work(5)) == 0.0, "makes way"
    assert waits(line(of_work(3)), [of_work(100)], of_work(5)) == 3.0


def test_the_place_that_is_free_first_is_taken() -> None:
    assert waits(line(), [of_work(10), of_work(6)], of_work(5), rows=2) == 6.0
    assert waits(line(of_work(3)), [of_work(10), of_work(6)], of_work(5), rows=2) == 9.0
    assert waits(line(), [of_work(10)], of_work(5), rows=2) == 0.0


@pytest.mark.parametrize("newcomer", [None, of_work(5)])
def test_the_wait_is_unknown_before_a_step_was_measured(newcomer: Sequence | None) -> None:
    assert WaitingQueue(CostModel()).predict_wait([of_work(10)], 1, 0.0, newcomer) is None


def test_work_is_compared_in_seconds_not_in_iterations() -> None:
    """A few canvases may cost more than many single tokens."""
    cost_model = CostModel()
    step = Denoise(sequence=1, slot=0, at=3, block=0, step=1, opens=True, denoising=DenoisingParams(), seed=0)
    decode = Decode(sequence=2, slot=1, ids=(9,), at=4, seed=0)
    for rows in (1, 2) * 20:
        cost_model.record_step(0.1 * rows, Batch(denoises=(step,) * rows))
        cost_model.record_step(0.001 * rows, Batch(decodes=(decode,) * rows))
    it = WaitingQueue(cost_model)
    read = of_work(30)
    canvases = Sequence(
        id=2, request=replace(REQUEST, decoding_mode=DecodingMode.DIFFUSION), submitted=0.0, prefill_chunks=[(9,)]
    )
    assert cost_model.iterations(canvases) < cost_model.iterations(read)
    for sequence in (canvases, read):
        it.add(sequence)
    assert it.first(0.0) is read
