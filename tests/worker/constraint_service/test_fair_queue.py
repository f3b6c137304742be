"""Fair queue: each API key gets its share of the time, small jobs go first, and nobody starves."""

from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraint_service.fair_queue import LATEST_S, FairQueue, Job


def job(owner: str, size: int = 0, at: float = 0.0) -> Job:
    return Job(owner=owner, size=size, arrived_s=at)


def served(queue: FairQueue, take_s: float = 1.0) -> list[Job]:
    """All jobs in the order of their service, one at a time."""
    order = []
    while (found := queue.take(with_long=True)) is not None:
        order.append(found)
        queue.ended(found, take_s)
    return order


def test_keys_take_turns_however_many_jobs_each_has() -> None:
    queue = FairQueue()
    for each in (*(job("a", at=n) for n in range(6)), job("b", at=9), job("b", at=10)):
        queue.add(each)
    assert [each.owner for each in served(queue)][:4] == ["a", "b", "a", "b"]


def test_a_key_whose_jobs_take_long_is_served_less_often() -> None:
    queue = FairQueue()
    for n in range(4):
        queue.add(job("slow", at=n))
        queue.add(job("fast", at=n))
    order = []
    while (found := queue.take(with_long=True)) is not None:
        order.append(found.owner)
        queue.ended(found, 10.0 if found.owner == "slow" else 1.0)
    assert order == ["slow", "fast", "fast", "fast", "fast", "slow", "slow", "slow"]


def test_a_key_that_returns_has_saved_up_nothing() -> None:
    queue = FairQueue()
    queue.add(job("busy"))
    queue.add(job("busy"))
    first = queue.take(with_long=True)
    assert first is not None
    queue.ended(first, 100.0)
    for n in range(3):
        queue.add(job("new", at=1 + n))
    assert [each.owner for each in served(queue)][:2] == ["busy", "new"]


def test_small_jobs_of_a_key_go_first_but_pass_a_large_one_only_for_a_while() -> None:
    queue = FairQueue()
    large, small, late = job("a", 1 << 20), job("a", 10, at=1.0), job("a", 10, at=LATEST_S + 1.0)
    for each in (large, late, small):
        queue.add(each)
    assert served(queue) == [small, large, late]


def test_long_jobs_wait_until_they_may_run() -> None:
    queue = FairQueue()
    long = job("a")
    long.is_long = True
    queue.add(long)
    assert queue.take(with_long=False) is None
    queue.add(job("a", 1 << 20))
    assert queue.take(with_long=False) is not long
    assert queue.take(with_long=True) is long


ARRIVALS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20_000), st.floats(0.01, 10)), max_size=40)


@given(ARRIVALS)
def test_every_job_is_served_once_and_no_key_is_ahead_by_more_than_one_job(
    arrivals: list[tuple[str, int, float]],
) -> None:
    queue, seconds, used = FairQueue(), dict[Job, float](), dict.fromkeys("abc", 0.0)
    for at, (owner, size, takes_s) in enumerate(arrivals):
        made = job(owner, size, at)
        seconds[made] = takes_s
        queue.add(made)
    waiting = {owner: sum(each.owner == owner for each in seconds) for owner in "abc"}
    order = []
    while (found := queue.take(with_long=True)) is not None:
        others = [used[owner] for owner in "abc" if waiting[owner]]
        assert used[found.owner] == min(others)
        order.append(found)
        used[found.owner] += seconds[found]
        waiting[found.owner] -= 1
        queue.ended(found, seconds[found])
    assert sorted(map(id, order)) == sorted(map(id, seconds))
    assert (len(queue), queue._used_s, queue._running) == (0, {}, {})


@given(ARRIVALS, st.data())
def test_a_job_that_is_given_up_leaves_nothing(arrivals: list[tuple[str, int, float]], data: st.DataObject) -> None:
    queue = FairQueue()
    jobs = [job(owner, size, at) for at, (owner, size, _) in enumerate(arrivals)]
    for each in jobs:
        queue.add(each)
    given_up = data.draw(st.sets(st.sampled_from(jobs))) if jobs else set()
    for each in given_up:
        queue.remove(each)
    assert set(served(queue)) == set(jobs) - given_up
    assert not queue._used_s
