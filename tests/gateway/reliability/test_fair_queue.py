"""A queue that serves keys in turn, and displaces only the items of the key that floods it."""

from collections import Counter, OrderedDict
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from gateway.reliability.fair_queue import FairQueue

ARRIVALS = st.lists(st.sampled_from("abc"), max_size=60)


def filled(keys: list[str], limit: int) -> tuple[FairQueue[tuple[str, int]], list[tuple[str, int]]]:
    """A queue after these arrivals, and the items that had to leave."""
    queue, left = FairQueue[tuple[str, int]](), []
    for number, key in enumerate(keys):
        evicted = queue.offer(key, (key, number), limit=limit)
        if evicted is not None:
            left.append(evicted)
    return queue, left


@given(keys=ARRIVALS, limit=st.integers(0, 12))
def test_every_item_is_served_once_or_has_to_leave_and_the_limit_holds(keys: list[str], limit: int) -> None:
    queue, left = filled(keys, limit)
    assert len(queue) <= limit
    served = [queue.pop() for _ in range(len(queue))]
    assert sorted([*served, *left]) == sorted((key, number) for number, key in enumerate(keys))


@given(keys=ARRIVALS)
def test_keys_are_served_in_turn_and_items_of_a_key_in_order(keys: list[str]) -> None:
    queue, _ = filled(keys, 100)
    served = [queue.pop() for _ in range(len(queue))]
    for key in set(keys):
        assert [item for item in served if item[0] == key] == [(k, n) for n, k in enumerate(keys) if k == key]
    turns = Counter[str]()
    waiting = Counter(keys)
    for key, _ in served:
        behind = [other for other in waiting if waiting[other] > turns[other] and other != key]
        assert all(turns[key] <= turns[other] for other in behind)
        turns[key] += 1


@given(flood=st.integers(8, 50), limit=st.integers(4, 8))
def test_a_key_within_its_share_is_never_displaced_by_a_flood(flood: int, limit: int) -> None:
    queue, left = filled(["b", *["a"] * flood, "b"], limit)
    assert ("b", 0) in queue
    assert ("b", flood + 1) in queue
    assert {key for key, _ in left} == {"a"}


STEPS = st.lists(st.one_of(st.sampled_from("abcd"), st.none(), st.integers(0, 30)), max_size=80)


@given(steps=STEPS, limit=st.integers(1, 8))
def test_whoever_has_to_leave_is_the_newest_of_a_longest_key(steps: list[str | int | None], limit: int) -> None:
    """Whatever came, was served (None) and left (a number) before."""
    queue, waiting = FairQueue[int](), dict[int, str]()
    for number, step in enumerate(steps):
        if isinstance(step, str):
            waiting[number] = step
            evicted = queue.offer(step, number, limit=limit)
            if evicted is not None:
                counts = Counter(waiting.values())
                owner = waiting.pop(evicted)
                assert counts[owner] == max(counts.values())
                assert all(each < evicted for each, key in waiting.items() if key == owner)
        elif step is None and waiting:
            del waiting[queue.pop()]
        elif step in waiting:
            queue.remove(waiting.pop(step), step)
        assert (sorted(queue), len(queue)) == (sorted(waiting), len(waiting))


class Unseen(OrderedDict[str, dict[int, None]]):
    """Keys that nobody may look through."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("looked at every key")

    items = keys = values = __iter__  # type: ignore[assignment]


def test_a_full_queue_takes_an_item_without_looking_at_every_key() -> None:
    queue = FairQueue[int]()
    queue._by_key = Unseen()
    for number in range(100):
        assert queue.offer(f"key {number}", number, limit=102) is None
    for number in (100, 101):
        assert queue.offer("key 7", number, limit=102) is None
    assert queue.offer("new", 102, limit=102) == 101
    assert queue.offer("key 7", 103, limit=102) == 103


@given(keys=st.lists(st.sampled_from("abc"), min_size=1, max_size=20), data=st.data())
def test_an_item_that_leaves_is_not_served(keys: list[str], data: st.DataObject) -> None:
    queue, _ = filled(keys, 100)
    gone = data.draw(st.sampled_from([(key, number) for number, key in enumerate(keys)]))
    queue.remove(gone[0], gone)
    queue.remove(gone[0], gone)  # a second time changes nothing
    assert len(queue) == len(keys) - 1
    assert gone not in [queue.pop() for _ in range(len(queue))]
