"""API keys: a file of hashes decides which keys are valid, for both programs."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twolane.process import api_keys
from twolane.process.api_keys import Key, Keys, KeyScope, add_key, key_line, key_of, load_keys, new_key
from twolane.process.errors import ConfigurationError


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "keys"
    path.write_text(text)
    return path


def name_of(keys: Keys, key: bytes) -> str | None:
    found = keys.find(key)
    return found and found.name


def test_a_key_without_options_sends_requests_and_does_nothing_else(tmp_path: Path) -> None:
    key = load_keys(written(tmp_path, key_line("ann", "a"))).find(b"a")
    assert key is not None
    assert [scope for scope in KeyScope if key.allows(scope)] == ["ask"]
    assert not key.is_restricted


def test_options_of_a_key_grant_scopes_and_restrict_its_requests(tmp_path: Path) -> None:
    options = ["scopes=ask,admin", "models=auto,fast", "routes=edits", "private-only", "locations=eu,On-Prem"]
    key = load_keys(written(tmp_path, key_line("ann", "a", options))).find(b"a")
    assert key is not None
    assert key.scopes == {"ask", "admin"}
    assert key.allows(KeyScope.METRICS)  # an administrator also reads metrics
    assert (key.models, key.routes, key.private_only) == ({"auto", "fast"}, {"edits"}, True)
    assert key.locations == {"eu", "on-prem"}


@pytest.mark.parametrize("option", ["models=auto", "routes=edits", "private-only", "locations=eu"])
def test_each_limit_restricts_a_key(tmp_path: Path, option: str) -> None:
    key = load_keys(written(tmp_path, key_line("ann", "a", [option]))).find(b"a")
    assert key is not None
    assert key.is_restricted


def test_a_keys_file_that_is_created_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    add_key(tmp_path / "new", key_line("ann", "a"))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_a_key_is_known_by_its_hash_alone(tmp_path: Path) -> None:
    """Comments and blank lines are skipped."""
    path = written(tmp_path, f"# ours\n\n{key_line('gateway', 'secret-1')}\n  {key_line('bench', 'secret-2')}\n")
    keys = load_keys(path)
    assert name_of(keys, b"secret-1") == "gateway"
    assert name_of(keys, b"secret-2") == "bench"
    assert name_of(keys, b"secret-3") is None
    assert name_of(keys, b"") is None
    assert "secret-1" not in path.read_text()


def test_the_hash_may_be_in_either_case_and_a_name_keeps_its_own(tmp_path: Path) -> None:
    text = f"Ann sha256:{digest('a').upper()}\nann sha256:{digest('b')}\n"
    keys = load_keys(written(tmp_path, text))
    assert (name_of(keys, b"a"), name_of(keys, b"b")) == ("Ann", "ann")


@pytest.mark.parametrize("name", ["ann", "team.a@example-1_b", "José", "x" * 64])
def test_a_name_is_letters_digits_and_a_few_marks(tmp_path: Path, name: str) -> None:
    assert name_of(load_keys(written(tmp_path, key_line(name, "k"))), b"k") == name


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("gateway secret\n", "line 1: expected"),
        ("# fine\ngateway sha256:abc\n", "line 2: expected"),
        ("gateway SHA256:" + 64 * "0", "line 1: expected"),
        ("gateway: sha256:" + 64 * "0", "line 1: expected"),
        ("a/b sha256:" + 64 * "0", "line 1: expected"),
        ("x" * 65 + " sha256:" + 64 * "0", "line 1: expected"),
        (key_line("a", "k", ["scope=ask"]), "line 1: a: unknown option; allowed: scopes=ask,metrics,admin, models="),
        (key_line("a", "k", ["private-only=yes"]), "line 1: a: unknown option"),
        (key_line("a", "k", ["models="]), "line 1: a: unknown option"),
        (key_line("a", "k", ["scopes=ask,root"]), "line 1: a: unknown scope; allowed: ask, metrics, admin"),
        (key_line("a", "k", ["models=a", "models=b"]), "line 1: a: models is repeated"),
        (
            key_line("a", "k", ["scopes=metrics", "private-only"]),
            "line 1: a: models, routes, locations and",
        ),
        (
            key_line("a", "k", ["scopes=metrics", "locations=eu"]),
            "line 1: a: models, routes, locations and",
        ),
        (key_line("a", "k", ["locations=eu,a/b"]), "line 1: a: 'a/b' is not a location: expected"),
        (key_line("a", "k", ["locations="]), "line 1: a: unknown option"),
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


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("inside", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_only_line_ends_of_files_end_a_line(tmp_path: Path, end: str, inside: str) -> None:
    """A comment must not contain a key that editors show as a part of it."""
    comment = f"# replaced:{inside}{key_line('hidden', 'old')}"
    keys = load_keys(written(tmp_path, end.join(("\ufeff" + comment, key_line("ann", "new")))))
    assert [key.name for key in keys] == ["ann"]


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
    add_key(file, key_line("bob", key))
    assert name_of(load_keys(file), key.encode()) == "bob"
    assert name_of(load_keys(file), b"a") == "ann"
    add_key(tmp_path / "new", key_line("bob", key))
    assert name_of(load_keys(tmp_path / "new"), key.encode()) == "bob"


@pytest.mark.parametrize(
    ("text", "cause"), [(key_line("ann", "a"), "ann already has a key"), ("ann secret", "line 1: expected")]
)
def test_a_file_that_could_not_be_loaded_afterwards_is_left_alone(tmp_path: Path, text: str, cause: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigurationError, match=cause):
        add_key(file, key_line("ann", "b"))
    assert file.read_text() == text


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"keys file .*: No such file"):
        add_key(tmp_path / "no" / "keys", key_line("ann", "a"))


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
    assert key_of(headers) == key


@pytest.mark.parametrize("name", [b"authorization", b"api-key", b"x-api-key"])
@pytest.mark.parametrize("other", [b"authorization", b"api-key", b"x-api-key"])
def test_several_headers_must_carry_the_same_key(name: bytes, other: bytes) -> None:
    def header(name: bytes, key: bytes) -> tuple[bytes, bytes]:
        return name, b"bEaReR  " + key if name == b"authorization" else b" " + key

    assert key_of([header(name, b"k")]) == b"k"
    assert key_of([header(name, b"k"), header(other, b"k")]) == b"k"
    assert key_of([header(name, b"k"), header(other, b"")]) == b"k"
    assert key_of([header(name, b"k"), header(other, b"l")]) == b""
    assert key_of([header(name, b"k"), header(other, b"l"), header(name, b"k")]) == b""
    assert key_of([header(name, b"k"), (b"authorization", b"Basic k")]) == b""


@given(
    st.dictionaries(
        st.sampled_from([b"authorization", b"api-key", b"x-api-key", b"x"]),
        st.sampled_from([b"", b" k ", b"k", b"l", b"Bearer k", b" bEaReR  k ", b"bearer", b"Basic k"]),
    )
)
def test_headers_by_name_have_the_same_key_whenever_they_are_sent(headers: dict[bytes, bytes]) -> None:
    keys = Keys({hashlib.sha256(key).digest(): Key(name=key.decode()) for key in (b"k", b"l")})
    found = keys.find(key_of(headers.items()))
    assert [keys.of_headers(headers) for _ in range(3)] == [found] * 3


def test_a_key_that_was_sent_before_does_not_excuse_another_one() -> None:
    keys = Keys({hashlib.sha256(key).digest(): Key(name=key.decode()) for key in (b"k", b"l")})
    valid = {b"authorization": b"Bearer k"}
    assert keys.of_headers(valid) == Key(name="k")
    assert keys.of_headers({**valid, b"api-key": b"l"}) is None
    assert keys.of_headers({**valid, b"x-api-key": b"none"}) is None
    assert keys.of_headers({b"authorization": b"Bearer none"}) is None
    assert keys.of_headers({b"authorization": b"Bearer  l"}) == Key(name="l")
    assert keys.of_headers({}) is None


def test_only_so_many_headers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "_MAX_KNOWN_HEADERS", 3)
    keys = Keys({hashlib.sha256(b"k").digest(): Key(name="k")})
    for spaces in range(1, 9):
        assert keys.of_headers({b"authorization": b"Bearer" + b" " * spaces + b"k"}) == Key(name="k")
        assert len(keys._by_header) <= 3
    assert keys.of_headers({b"authorization": b"Bearer" + b" " * 1000 + b"k"}) == Key(name="k")
    assert sum(map(len, keys._by_header)) < 1000
