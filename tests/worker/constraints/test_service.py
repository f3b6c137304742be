"""Compilation in a process of its own, and what is kept of it."""

import os
import signal
from pathlib import Path

import pytest

from diffusion_worker.constraints.compile import compile_constraint
from diffusion_worker.constraints.constraint import Constraint
from diffusion_worker.constraints.service import CompileService
from diffusion_worker.constraints.store import Store, from_bytes, to_bytes
from diffusion_worker.errors import BadAsk, CompilerFailed, UnsupportedSchema

YES = Constraint(kind="choice", value=["yes", "no"])
POINT = Constraint(
    kind="json_schema", value={"type": "object", "properties": {"x": {"type": "integer", "multipleOf": 0.5}}}
)


def test_the_child_compiles_as_this_process_does() -> None:
    """The automaton crosses the border whole."""
    with CompileService() as service:
        found, here = service.compile(POINT), compile_constraint(POINT)
        assert (found.needs_check, found.stats) == (here.needs_check, here.stats)
        assert found.automaton.next.tobytes() == here.automaton.next.tobytes()
        assert service.compile(POINT) is found  # from memory


def test_refusals_cross_the_border_whole() -> None:
    """With keyword, pointer and message."""
    with CompileService() as service:
        with pytest.raises(UnsupportedSchema) as caught:
            service.compile(Constraint(kind="json_schema", value={"items": {"$ref": "x"}}))
        assert (caught.value.keyword, caught.value.pointer) == ("$ref", "/items/$ref")
        assert caught.value.message.count("/items/$ref") == 1
        with pytest.raises(BadAsk, match="not a valid schema"):
            service.compile(Constraint(kind="json_schema", value={"type": 1}))
        assert service.compile(YES).automaton.accepts(b"yes")


def test_a_constraint_that_takes_too_long_is_refused_and_the_child_stopped() -> None:
    """The time bounds every constraint, and the next one gets a fresh child."""
    service = CompileService(timeout_s=0.001)
    with pytest.raises(UnsupportedSchema, match=r"longer than 0\.001 s"):
        service.compile(YES)
    assert service._child is None
    service.close()


def test_a_child_that_died_is_replaced() -> None:
    """Between two constraints nobody notices."""
    with CompileService() as service:
        service.compile(YES)
        child = service._child
        assert child is not None
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert service.compile(POINT).stats.states > 0


def test_a_constraint_that_kills_the_child_twice_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an error of ours, not of the client's."""
    monkeypatch.setattr("diffusion_worker.constraints.service.sys.executable", "/bin/true")
    with CompileService() as service, pytest.raises(CompilerFailed):
        service.compile(YES)


def test_closing_leaves_no_process() -> None:
    """However often it is done."""
    service = CompileService()
    service.compile(YES)
    child = service._child
    service.close()
    service.close()
    assert child is not None
    assert child.poll() is not None


def test_a_store_outlives_its_process(tmp_path: Path) -> None:
    """By content: another order of members is another constraint."""
    compiled = compile_constraint(YES)
    Store(tmp_path).put(YES.digest("1"), compiled)
    found = Store(tmp_path).get(YES.digest("1"))
    assert found is not None
    assert found.automaton.next.tobytes() == compiled.automaton.next.tobytes()
    assert Store(tmp_path).get(YES.digest("2")) is None
    assert Constraint(kind="choice", value=["no", "yes"]).digest("1") != YES.digest("1")


def test_a_broken_file_is_absent_and_removed(tmp_path: Path) -> None:
    """A crash of another process costs a compilation, nothing else."""
    for content in (b"", b"PK\x03\x04 broken", to_bytes(compile_constraint(YES))[:-20]):
        (tmp_path / "a.npz").write_bytes(content)
        assert Store(tmp_path).get("a") is None
        assert not (tmp_path / "a.npz").exists()
        with pytest.raises(ValueError):
            from_bytes(content)


def test_memory_and_folder_are_bounded(tmp_path: Path) -> None:
    """The least recently used leaves first."""
    store, compiled = Store(tmp_path, in_memory=1, on_disk=2), compile_constraint(YES)
    for index, name in enumerate("abc"):
        store.put(name, compiled)
        os.utime(tmp_path / f"{name}.npz", (index, index))
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["b", "c"]
    assert Store(tmp_path).get("a") is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """Memory still serves."""
    store = Store(tmp_path / "x")
    (tmp_path / "x").rmdir()
    store.put("a", compile_constraint(YES))
    assert store.get("a") is not None
