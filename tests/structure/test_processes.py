"""`pytest --processes N` reports what pytest in one process reports."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
# Two files that run at the same time, or else the first would wait for the second in vain.
FIRST = """
import os, pathlib, sys, time, pytest

KEPT = sys.stderr  # as the handlers of libraries do

@pytest.fixture(scope="module")
def made():
    with open("made", "a") as file:
        print(os.getpid(), file=file)
    return os.getpid()

def test_waits_for_the_other_file(made, tmp_path):
    while not pathlib.Path("other").exists():
        time.sleep(0.01)
    assert made == os.getpid() != int(pathlib.Path("other").read_text())

def test_fails(made):
    print("printed before", made)
    print("printed by a handler", file=KEPT)
    os.system("echo printed by a child")
    assert made == 0

@pytest.mark.skip(reason="as an example")
def test_is_skipped(): pass

def test_crashes(made): os._exit(70)

def test_comes_after_the_crash(made): assert made == os.getpid()
"""
SECOND = """
import os, pytest

@pytest.fixture(scope="module")
def ended():
    yield
    open("ended", "w").close()

@pytest.mark.parametrize("number", range(20))
def test_passes(number, ended, tmp_path):
    assert os.listdir(tmp_path) == []
    if number == 0:
        with open(f"{tmp_path}/part", "w") as file:
            file.write(str(os.getpid()))
        os.replace(file.name, "other")
"""


def pytest_at(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "pytest", "-p", "tests.processes", "--processes", "2", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_first.py").write_text(FIRST)
    (tmp_path / "test_second.py").write_text(SECOND)
    return tmp_path


def test_every_test_is_reported_once_also_after_a_crash(folder: Path) -> None:
    done = pytest_at(folder, "--junitxml", "report.xml")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    cases = list(ElementTree.parse(folder / "report.xml").iter("testcase"))
    outcomes = {case.attrib["name"]: [each.tag for each in case if each.tag != "system-out"] for case in cases}
    assert len(outcomes) == len(cases) == 25
    assert {name: found for name, found in outcomes.items() if found} == {
        "test_fails": ["failure"],
        "test_is_skipped": ["skipped"],
        "test_crashes": ["failure"],
    }
    assert "printed by a child" in done.stdout
    assert "printed before" in done.stdout
    assert done.stdout.count("\nprinted by a handler") == 1
    assert "the process ended during this test: 70" in done.stdout
    assert (folder / "ended").exists()
    assert len((folder / "made").read_text().split()) == 2  # for the file, and for its rest after the crash


def test_the_first_failure_ends_all_processes_if_asked(folder: Path) -> None:
    """The process of another file is interrupted: its fixtures are torn down, its other tests are not run."""
    (folder / "test_second.py").write_text(
        SECOND + "\n\ndef test_never_ends(ended):\n    import time; time.sleep(600)\n"
    )
    done = pytest_at(folder, "-x")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "stopping after 1 failures" in done.stdout
    assert (folder / "ended").exists()
    assert "test_crashes" not in done.stdout


def test_a_test_that_hangs_is_ended_with_its_process(folder: Path) -> None:
    hanging = "\n\n@pytest.mark.timeout(1)\ndef test_hangs(ended):\n    import time; time.sleep(600)\n"
    (folder / "test_second.py").write_text(SECOND + hanging + "\n\ndef test_comes_next(): pass\n")
    done = pytest_at(folder, "test_second.py", "test_first.py", "--deselect", "test_first.py::test_fails")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "the process ended during this test: -6" in done.stdout
    assert "in test_hangs" in done.stderr
    assert "2 failed, 23 passed, 1 skipped" in done.stdout
