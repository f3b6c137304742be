"""A pytest plugin: a test that is not marked `slow` fails if it takes more than a few seconds of processor time, its
fixtures and the processes that have ended in it included. Time that it waits, or that others use, does not count."""

import resource
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

LIMIT_S = 5.0  # quick tests take less than one; a processor that two processes share does up to half of its work
_used = pytest.StashKey[float]()


def used_s() -> float:
    """Processor seconds of this process and of its children that have ended."""
    usages = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    before_s = used_s()
    result = yield
    item.stash[_used] = used_s() - before_s
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    before_s = used_s()
    result = yield
    took_s = item.stash[_used] + used_s() - before_s
    is_quick = item.get_closest_marker("slow") is None and settings.get_current_profile_name() != "nightly"
    if is_quick and took_s > LIMIT_S:
        pytest.fail(f"took {took_s:.1f} s of processor time: more than {LIMIT_S:.0f} s need `pytest.mark.slow`")
    return result
