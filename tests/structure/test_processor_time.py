"""A test that takes long must say so: `make test-quick` leaves out those that are marked `slow`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFTEST = """
import tests.processor_time
tests.processor_time.LIMIT_S = 0.2
pytest_plugins = ["tests.processor_time"]
"""
TESTS = """
import pytest, subprocess, sys, time

BUSY = "import time\\nwhile time.process_time() < 0.3: pass"

@pytest.fixture
def made(): subprocess.run([sys.executable, "-c", BUSY], check=True)

def test_computes():
    began_s = time.process_time()
    while time.process_time() < began_s + 0.3: pass

def test_has_a_fixture_that_starts_a_process(made): pass

@pytest.mark.slow
def test_says_that_it_is_slow(made): pass

def test_waits(): time.sleep(0.3)
"""


@pytest.mark.slow
def test_a_test_of_much_processor_time_fails_unless_it_is_marked_slow(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_file.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    failed = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("FAILED")}
    assert failed == {
        "test_file.py::test_computes",
        "test_file.py::test_has_a_fixture_that_starts_a_process",
    }, done.stdout
    assert "2 passed" in done.stdout
