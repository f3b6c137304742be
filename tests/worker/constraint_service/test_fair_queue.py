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
    for n in range(3):
        queue.add(job("busy", at=n))
    assert run_one(queue, 100.0) == "busy"
    second = queue.take(with_long=True)
    assert second is not None
    for n in range(3):
        queue.add(job("new", at=3 + n))
    queue.ended(second, 1.0)
    assert [each.owner for each in served(queue)][:3] == ["new", "busy", "new"]


def run_one(queue: FairQueue, used_s: float) -> str:
    """Serve the next job, and return its owner."""
    taken = queue.take(with_long=True)
    assert taken is not None
    queue.ended(taken, used_s)
    return taken.owner


def test_what_a_key_used_still_counts_after_it_had_no_job_for_a_moment() -> None:
    """Else one whose clients wait for each answer would get as many turns as others, not as much time."""
    queue = FairQueue()
    queue.add(job("slow"))
    for n in range(20):
        queue.add(job("quick", at=n))
    assert run_one(queue, 10.0) == "slow"
    queue.add(job("slow", at=1))
    assert [run_one(queue, 1.0) for _ in range(10)] == ["quick"] * 10
    assert "slow" in [run_one(queue, 1.0) for _ in range(2)]


def test_what_a_job_used_still_counts_when_it_waits_again() -> None:
    queue = FairQueue()
    again = job("slow")
    queue.add(again)
    first = queue.take(with_long=True)
    queue.add(job("quick", at=1))
    second = queue.take(with_long=True)  # by another process
    assert (first, second is not None) == (again, True)
    queue.ended(again, 2.0)
    again.is_long = True
    queue.add(again)
    queue.add(job("quick", at=2))
    assert second is not None
    queue.ended(second, 0.5)
    assert [run_one(queue, 0.5), run_one(queue, 0.5)] == ["quick", "slow"]


def test_a_key_that_paused_for_long_is_not_charged_for_what_it_used_before() -> None:
    queue = FairQueue()
    queue.add(job("early"))
    for n in range(30):
        queue.add(job("steady", at=n))
    assert run_one(queue, 5.0) == "early"
    for _ in range(10):
        assert run_one(queue, 1.0) == "steady"
    queue.add(job("early", at=50))
    assert "early" in [run_one(queue, 1.0) for _ in range(2)]


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=4), st.integers(1, 3))
def test_keys_whose_clients_wait_for_each_answer_get_the_same_time(takes_s: list[float], processes: int) -> None:
    """As long as there are more keys than processes. No key is behind by more than one job of each of them."""
    queue, used, running = FairQueue(), [0.0] * len(takes_s), list[tuple[float, Job]]()
    if processes >= len(takes_s):
        return
    for owner in range(len(takes_s)):
        queue.add(job(str(owner)))
    now_s = 0.0
    while now_s < 200:
        while len(running) < processes:
            taken = queue.take(with_long=True)
            assert taken is not None
            running.append((now_s + takes_s[int(taken.owner)], taken))
        now_s, ended = min(running, key=lambda each: each[0])
        running.remove((now_s, ended))
        used[int(ended.owner)] += takes_s[int(ended.owner)]
        queue.ended(ended, takes_s[int(ended.owner)])
        queue.add(job(ended.owner, at=now_s))
    assert max(used) - min(used) <= 3 * max(takes_s) if processes == 1 else max(used) < 200 + max(takes_s)


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
    assert (len(queue), queue._tags, queue._running) == (0, {}, {})


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
    assert not queue._tags
