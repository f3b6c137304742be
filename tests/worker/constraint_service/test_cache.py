"""The constraint cache: keyed by content, bounded, and robust to corrupt files."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from diffusion_worker.constraint_service.cache import ConstraintCache
from diffusion_worker.constraints import compiled
from diffusion_worker.constraints.compiled import CompiledConstraint, compile_for_vocabulary, digest_of
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens.token_trie import TokenTrie, build_token_trie

TOKENS = [b"", b"", *(bytes([byte]) for byte in range(256)), b"yes", b'":']
YES = Constraint(kind="choice", value=["yes", "no"])
POINT = Constraint(
    kind="json_schema", value={"type": "object", "properties": {"x": {"type": "integer", "multipleOf": 0.5}}}
)


def vocabulary() -> TokenTrie:
    return build_token_trie(TOKENS, (1,), 0)


def made(constraint: Constraint = YES) -> CompiledConstraint:
    return compile_for_vocabulary(constraint, vocabulary())


def same(ours: CompiledConstraint, theirs: CompiledConstraint) -> bool:
    """Every array and fact."""
    return compiled.to_bytes(ours) == compiled.to_bytes(theirs)


def test_a_compiled_constraint_round_trips() -> None:
    """Serialised and deserialised."""
    here = made(POINT)
    there = compiled.from_bytes(compiled.to_bytes(here))
    assert (there.needs_check, there.stats) == (here.needs_check, here.stats)
    assert same(here, there)
    assert there.automaton.vocabulary == vocabulary().digest


def test_equal_digests_mean_equal_content_vocabulary_and_prefixes() -> None:
    """Member order counts, and so do allowed prefixes."""
    assert digest_of(YES, "a") == digest_of(YES, "a")
    others = (
        digest_of(YES, "b"),
        digest_of(YES, "a", ((), (1,))),
        digest_of(Constraint(kind="choice", value=["no", "yes"]), "a"),
    )
    assert len({digest_of(YES, "a"), *others}) == 4


def test_another_compiler_version_has_other_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    """So results of another version are never reused."""
    before = digest_of(YES, "a")
    monkeypatch.setattr(compiled, "_VERSIONS", "of tomorrow")
    assert digest_of(YES, "a") != before


def test_a_cache_outlives_its_process(tmp_path: Path) -> None:
    """A new cache on the same folder finds the entry."""
    ConstraintCache(tmp_path).put("a", made())
    found = ConstraintCache(tmp_path).get("a")
    assert found is not None
    assert same(found, made())
    assert ConstraintCache(tmp_path).get("b") is None
    assert ConstraintCache(tmp_path).get_from_memory("a") is None  # memory alone


@pytest.mark.parametrize("cut", [0, 9, 100, -20])
def test_a_corrupt_file_is_absent_and_removed(tmp_path: Path, cut: int) -> None:
    """A partial file costs a compilation, nothing else."""
    content = compiled.to_bytes(made())[:cut] or b"PK\x03\x04 broken"
    (tmp_path / "a.constraint").write_bytes(content)
    assert ConstraintCache(tmp_path).get("a") is None
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError):
        compiled.from_bytes(content)


def test_memory_and_folder_are_bounded(tmp_path: Path) -> None:
    """The least recently used entry is evicted first, and abandoned partial files are removed."""
    size = len(compiled.to_bytes(made()))
    (tmp_path / "dead.part").write_bytes(b"half")
    os.utime(tmp_path / "dead.part", (0, 0))
    (tmp_path / "live.part").write_bytes(b"half")
    cache = ConstraintCache(tmp_path, in_memory=1, on_disk_bytes=2 * size)
    for index, name in enumerate("abc"):
        cache.put(name, made())
        os.utime(tmp_path / f"{name}.constraint", (time.time() + index, time.time() + index))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.constraint", "c.constraint", "live.part"]
    assert cache.get_from_memory("b") is None
    assert cache.get_from_memory("c") is not None
    cache.clear_memory()
    assert cache.get_from_memory("c") is None
    ConstraintCache(tmp_path, on_disk_bytes=size - 1).put("d", made())
    assert not (tmp_path / "d.constraint").exists()


def test_an_unwritable_folder_is_no_error(tmp_path: Path) -> None:
    """Memory still serves."""
    cache = ConstraintCache(tmp_path / "x")
    (tmp_path / "x").rmdir()
    cache.put("a", made())
    assert cache.get("a") is not None


def test_automata_are_reproducible() -> None:
    """So the files of one process are valid for another."""
    assert same(made(POINT), made(POINT))
    assert np.array_equal(made().automaton.distance, made().automaton.distance)
