"""Memory that rows lend from each other."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

from diffusion_worker.constraints.inference.scratch import Scratch


def test_memory_is_used_again_up_to_what_is_kept() -> None:
    scratch = Scratch(in_use=100, kept=10)
    with scratch.lend(8) as first:
        pass
    with scratch.lend(5) as again:
        assert again is first
    with scratch.lend(9) as larger:
        assert len(larger) == 9
    with scratch.lend(20) as much:
        pass
    with scratch.lend(1) as small:
        assert small is not much


def test_a_row_waits_for_memory_that_others_use() -> None:
    """Two rows fit at once, and a third begins when one of them ends."""
    scratch, both, begun = Scratch(in_use=10, kept=0), Barrier(3), Event()

    def third() -> None:
        with scratch.lend(5):
            begun.set()

    def hold(until: Event) -> None:
        with scratch.lend(5):
            both.wait(10)
            assert until.wait(10)

    ends = (Event(), Event())
    with ThreadPoolExecutor(3) as pool:
        holding = [pool.submit(hold, end) for end in ends]
        both.wait(10)
        waiting = pool.submit(third)
        assert not begun.wait(0.05)
        ends[0].set()
        assert begun.wait(10)
        ends[1].set()
        for each in (*holding, waiting):
            each.result(10)


def test_a_row_larger_than_the_limit_runs_alone() -> None:
    scratch = Scratch(in_use=10, kept=0)
    with scratch.lend(50) as memory:
        assert len(memory) == 50
    with scratch.lend(10) as memory:
        assert len(memory) == 10
