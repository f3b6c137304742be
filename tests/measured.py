"""CPU time of a function, which other processes on the machine do not affect. Compare such values only with each
other."""

import time
from collections.abc import Callable


def cpu_s(work: Callable[[], object], *, times: int = 3) -> float:
    """CPU seconds that this thread spends on the work: the minimum of a few runs, of which the first is a warm-up."""
    took_s = []
    for _ in range(times):
        began_s = time.thread_time()
        work()
        took_s.append(time.thread_time() - began_s)
    return min(took_s)
