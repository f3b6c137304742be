"""Fixtures that all tests share."""

import gc
import logging
import os
import ssl
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from _pytest.logging import catching_logs
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.fork_server", "tests.processes", "tests.processor_time"]

# Set before torch is imported, and inherited by every process that a test starts. Threads that spin while they wait for
# each other stall a machine with fewer idle cores than threads: a test with two threads took 120 s instead of 5.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Collecting tests makes objects that stay: `pytest_collection_finish` enables garbage collections.
gc.disable()

# A property test must not fail because the machine is busy, and tries the same examples in every run of `ci`, so that a
# change is not blamed for a defect that was there before. `nightly` tries others.
_STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", _STEADY, max_examples=50, derandomize=True)
settings.register_profile("nightly", _STEADY, max_examples=300)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several test processes, start with the files that take longest, so that none of them runs alone at the end:
    files with the longest timeout first, then those with most slow tests."""
    if config.option.processes < 2:
        return
    timeouts: Counter[Path] = Counter()
    slow: Counter[Path] = Counter()
    for item in items:
        timeout = item.get_closest_marker("timeout")
        timeouts[item.path] = max(timeouts[item.path], timeout.args[0] if timeout else 0)
        slow[item.path] += item.get_closest_marker("slow") is not None
    items.sort(key=lambda item: (-timeouts[item.path], -slow[item.path]))


def pytest_collection_finish() -> None:
    """Exempt imported modules (torch, transformers, every test module) from garbage collection: they live as long as
    the process, and each full collection would traverse them again. Collect rarely: what tests leave is little."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()
    _let_root_handlers_see_all()


def _let_root_handlers_see_all() -> None:
    """Let every logger propagate, so that pytest's handlers need no other logger than the root: it would look for such
    that do not among 1,500, most of them torch's, six times a test."""
    for logger in logging.getLogger().manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.propagate = True
    catching_logs.__enter__ = _catch_at_the_root  # type: ignore[method-assign]


def _catch_at_the_root(catching: catching_logs[logging.Handler]) -> logging.Handler:
    """`catching_logs.__enter__`, for the root logger alone."""
    root = logging.getLogger()
    root.addHandler(catching.handler)
    catching.attached_loggers.append(root)
    if catching.level is not None:
        catching.handler.setLevel(catching.level)
        catching.orig_level = root.level
        root.setLevel(min(catching.orig_level, catching.level))
    return catching.handler


@pytest.fixture(scope="session", autouse=True)
def one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let HTTP clients of this process read one certificate of a bundle. They call loopback, and reading all 140 takes
    each of a thousand clients 25 ms."""
    load, folder = ssl.SSLContext.load_verify_locations, tmp_path_factory.mktemp("certificates")

    @cache
    def one_of(bundle: str) -> Path:
        end, file = "-----END CERTIFICATE-----\n", folder / str(len(list(folder.iterdir())))
        file.write_text("".join(Path(bundle).read_text().partition(end)[:2]))
        return file

    def load_one(self: ssl.SSLContext, cafile: Any = None, capath: Any = None, cadata: Any = None) -> None:
        is_bundle = cafile is not None and Path(cafile).exists() and Path(cafile).stat().st_size > 100_000
        load(self, one_of(str(cafile)) if is_bundle else cafile, capath, cadata)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ssl.SSLContext, "load_verify_locations", load_one)
        yield


@pytest.fixture(scope="session")  # so that fixtures of any scope may be async
def anyio_backend() -> str:
    """Async tests run on asyncio, as the products do."""
    return "asyncio"
