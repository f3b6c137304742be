"""API keys: a file of hashes decides which keys are valid, for both programs."""

import hashlib
from pathlib import Path

import pytest

from twolane.process.api_keys import add_key, bearer_key, key_line, load_keys, new_key
from twolane.process.errors import ConfigurationError


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "keys"
    path.write_text(text)
    return path


def test_a_key_is_known_by_its_hash_alone(tmp_path: Path) -> None:
    """Comments and blank lines are skipped."""
    path = written(tmp_path, f"# ours\n\n{key_line('gateway', 'secret-1')}\n  {key_line('bench', 'secret-2')}\n")
    keys = load_keys(path)
    assert keys.name_of(b"secret-1") == "gateway"
    assert keys.name_of(b"secret-2") == "bench"
    assert keys.name_of(b"secret-3") is None
    assert keys.name_of(b"") is None
    assert "secret-1" not in path.read_text()


def test_the_hash_may_be_in_either_case_and_a_name_keeps_its_own(tmp_path: Path) -> None:
    text = f"Ann sha256:{digest('a').upper()}\nann sha256:{digest('b')}\n"
    keys = load_keys(written(tmp_path, text))
    assert (keys.name_of(b"a"), keys.name_of(b"b")) == ("Ann", "ann")


@pytest.mark.parametrize("name", ["ann", "team.a@example-1_b", "José", "x" * 64])
def test_a_name_is_letters_digits_and_a_few_marks(tmp_path: Path, name: str) -> None:
    assert load_keys(written(tmp_path, key_line(name, "k"))).name_of(b"k") == name


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "contains no key"),
        ("# only a comment\n", "contains no key"),
        ("gateway secret\n", "line 1: expected"),
        ("# fine\ngateway sha256:abc\n", "line 2: expected"),
        ("gateway SHA256:" + 64 * "0", "line 1: expected"),
        ("gateway: sha256:" + 64 * "0", "line 1: expected"),
        ("a/b sha256:" + 64 * "0", "line 1: expected"),
        ("x" * 65 + " sha256:" + 64 * "0", "line 1: expected"),
        (f"a sha256:{'0' * 64}\na sha256:{'1' * 64}\n", "line 2: duplicate name a"),
        (f"a sha256:{'0' * 64}\nb sha256:{'0' * 64}\n", "line 2: b has the same key"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, text: str, cause: str) -> None:
    """The line is not repeated: it may contain a key."""
    with pytest.raises(ConfigurationError, match=cause) as caught:
        load_keys(written(tmp_path, text))
    assert str(tmp_path / "keys") in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere: No such file"):
        load_keys(tmp_path / "nowhere")


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load_keys(tmp_path / "keys")


def test_what_is_added_is_what_is_loaded(tmp_path: Path) -> None:
    """Also after a last line without a line break."""
    file = written(tmp_path, "# ours\n" + key_line("ann", "a"))
    key = new_key()
    add_key(file, "bob", key)
    assert load_keys(file).name_of(key.encode()) == "bob"
    assert load_keys(file).name_of(b"a") == "ann"
    add_key(tmp_path / "new", "bob", key)
    assert load_keys(tmp_path / "new").name_of(key.encode()) == "bob"


@pytest.mark.parametrize(
    ("text", "cause"), [(key_line("ann", "a"), "ann already has a key"), ("ann secret", "line 1: expected")]
)
def test_a_file_that_could_not_be_loaded_afterwards_is_left_alone(tmp_path: Path, text: str, cause: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigurationError, match=cause):
        add_key(file, "ann", "b")
    assert file.read_text() == text


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"keys file .*: No such file"):
        add_key(tmp_path / "no" / "keys", "ann", "a")


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([(b"authorization", b"Bearer sk-1")], b"sk-1"),
        ([(b"authorization", b"bearer  sk-1 ")], b"sk-1"),
        ([(b"authorization", b"Basic sk-1")], b""),
        ([(b"authorization", b"Bearer")], b""),
        ([(b"x", b"y")], b""),
        ([(b"authorization", b"Basic x"), (b"authorization", b"Bearer sk-1")], b""),
    ],
)
def test_the_key_of_a_request_is_its_bearer_token(headers: list[tuple[bytes, bytes]], key: bytes) -> None:
    assert bearer_key(headers) == key
