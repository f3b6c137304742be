"""What is kept of compiled constraints: found again by content, bounded, and never the worse for a broken file."""

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


def test_what_is_ready_crosses_a_border_whole() -> None:
    """As bytes and back."""
    here = made(POINT)
    there = compiled.from_bytes(compiled.to_bytes(here))
    assert (there.needs_check, there.stats) == (here.needs_check, here.stats)
    assert same(here, there)
    assert there.automaton.vocabulary == vocabulary().digest


def test_equal_digests_mean_equal_content_words_and_headers() -> None:
    """The order of members counts; so does what may stand before the text."""
    assert digest_of(YES, "a") == digest_of(YES, "a")
    others = (
        digest_of(YES, "b"),
        digest_of(YES, "a", ((), (1,))),
        digest_of(Constraint(kind="choice", value=["no", "yes"]), "a"),
    )
    assert len({digest_of(YES, "a"), *others}) == 4


def test_another_version_of_the_compiler_finds_nothing_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """An automaton made by other rules is another automaton."""
    before = digest_of(YES, "a")
    monkeypatch.setattr(compiled, "_VERSIONS", "of tomorrow")
    assert digest_of(YES, "a") != before


def test_a_store_outlives_its_process(tmp_path: Path) -> None:
    """Another one with the same folder finds what this one has put there."""
    ConstraintCache(tmp_path).put("a", made())
    found = ConstraintCache(tmp_path).get("a")
    assert found is not None
    assert same(found, made())
    assert ConstraintCache(tmp_path).get("b") is None
    assert ConstraintCache(tmp_path).get_from_memory("a") is None  # memory alone


@pytest.mark.parametrize("cut", [0, 9, 100, -20])
def test_a_broken_file_is_absent_and_removed(tmp_path: Path, cut: int) -> None:
    """A crash of another process costs a compilation, nothing else."""
    content = compiled.to_bytes(made())[:cut] or b"PK\x03\x04 broken"
    (tmp_path / "a.constraint").write_bytes(content)
    assert ConstraintCache(tmp_path).get("a") is None
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError):
        compiled.from_bytes(content)


def test_memory_and_folder_are_bounded(tmp_path: Path) -> None:
    """The least recently used leaves first; what a writer that died has left behind goes with it."""
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


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """Memory still serves."""
    cache = ConstraintCache(tmp_path / "x")
    (tmp_path / "x").rmdir()
    cache.put("a", made())
    assert cache.get("a") is not None


def test_an_automaton_is_the_same_every_time() -> None:
    """Or files of one process would be strangers to another."""
    assert same(made(POINT), made(POINT))
    assert np.array_equal(made().automaton.distance, made().automaton.distance)
