"""Keys of targets: as people write them, followed, and never a reason to stop."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.enums import Kind
from gateway.errors import UpstreamAuth
from gateway.policy_files.load import load
from gateway.types import Target
from gateway.upstreams.keys import TargetKey, read_key
from gateway.upstreams.registry import credential_problems

KEY = "sk-Ab_1.~+/=="


def target(**fields: Any) -> Target:
    common = {"kind": Kind.OPENAI, "url": "http://h", "model": "m", "location": "in_cluster"}
    return Target(**{"name": "quality", **common, **fields})


@pytest.mark.parametrize(
    "text",
    [
        *(KEY, f"{KEY}\n", f"{KEY}\r\n", f"\ufeff{KEY}\n", f"  {KEY}\t\n\n", f"# the key\n\n{KEY}\n"),
        *(f'"{KEY}"', f"'{KEY}'\n", f"`{KEY}`", f'" {KEY} "'),
        *(f"OPENAI_API_KEY={KEY}", f"export OPENAI_API_KEY='{KEY}'\n", f"OPENAI_API_KEY = {KEY}", f"set KEY={KEY}\r\n"),
        *(f'KEY="{KEY}" # production', f"KEY={KEY} # production", f"api_key={KEY}", f"token={KEY}"),
        *(f"{KEY} # production", f"'{KEY}' # production", f'$env:OPENAI_API_KEY="{KEY}"'),
        *(f"Bearer {KEY}", f"bearer {KEY}", f'"Bearer {KEY}"', f"KEY=Bearer {KEY}"),
        *(f"Authorization: Bearer {KEY}", f"authorization:Bearer  {KEY}"),
    ],
)
def test_a_key_is_read_as_people_write_it(text: str) -> None:
    assert read_key(text).value == KEY


@pytest.mark.parametrize("key", ["c2VjcmV0MTIz=", "QUJD==", "ABCDEF==", "key", "a:b", "user:key", "AIzaSy-_x", "x=y=z"])
def test_a_bare_key_with_signs_of_its_own_is_left_alone(key: str) -> None:
    assert read_key(key).value == key


@pytest.mark.parametrize("text", ["", "\n", "  \r\n", "\ufeff", '""', "# nothing\n", "KEY=''"])
def test_an_empty_key_is_a_problem_and_no_key(text: str) -> None:
    key = read_key(text)
    assert (key.value, key.problem, key.is_unusable) == ("", "is empty", False)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sk-\x07abc", "cannot be sent"),
        ("sk-\x00abc", "cannot be sent"),
        ("sk-\u043a\u043b\u044e\u0447", "cannot be sent"),
        ("\u201csk-abc\u201d", "cannot be sent"),
        ("sk-abc\u200b", "cannot be sent"),
        ("sk-abc sk-def", "contains a blank"),
        ("one\ntwo\n", "has 2 lines"),
        ("A=one\nB=two\n", "has 2 lines"),
    ],
)
def test_an_impossible_key_is_a_problem_that_does_not_repeat_it(text: str, problem: str) -> None:
    key = read_key(text)
    assert (key.value, key.is_unusable) == ("", True)
    assert problem in str(key.problem)
    assert "sk-" not in str(key.problem)


@given(st.text(max_size=40))
def test_whatever_is_read_can_be_sent_or_is_a_problem(text: str) -> None:
    key = read_key(text)
    assert bool(key.value) != bool(key.problem)
    assert key.value.isascii()
    assert key.value.isprintable()


@pytest.mark.parametrize(
    "data", [b"sk-a\n", b"\xef\xbb\xbfsk-a\r\n", "\ufeffsk-a\r\n".encode("utf-16-le"), "\ufeffsk-a".encode("utf-16-be")]
)
def test_files_of_every_editor_are_read(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(data)
    assert TargetKey(target(key_file=str(file)), {}).value == "sk-a"


def test_a_key_that_cannot_be_sent_fails_each_attempt_with_its_own_reason() -> None:
    key = TargetKey(target(key_env="KEY"), {"KEY": "sk-\u20ac"})
    with pytest.raises(UpstreamAuth):
        assert key.value


def change(file: Path, data: bytes, key: TargetKey) -> None:
    """Write the file, and let two polls pass: the second one sees that it has settled."""
    file.write_bytes(data)
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1_000_000))
    key.refresh()
    key.refresh()


def test_a_changed_file_is_followed_and_a_broken_one_leaves_the_last_key(tmp_path: Path, caplog: Any) -> None:
    file = tmp_path / "key"
    file.write_text("sk-1")
    key = TargetKey(target(key_file=str(file)), {})
    key.refresh()
    assert key.value == "sk-1"
    change(file, b"KEY=sk-2\r\n", key)
    assert key.value == "sk-2"
    for broken in (b"", b"\xff\xff\xff", b"a b", b"x" * 70_000):
        change(file, broken, key)
        assert key.value == "sk-2"
    file.unlink()
    key.refresh()
    key.refresh()
    key.refresh()
    assert key.value == "sk-2"
    assert caplog.text.count("No such file") == 1
    change(file, b"sk-3", key)
    assert key.value == "sk-3"


def test_a_key_that_could_not_be_read_is_read_without_another_change_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """No free file descriptor, or a network file system that was away: the new key must not wait for the next one."""
    file = tmp_path / "key"
    file.write_text("sk-1")
    key = TargetKey(target(key_file=str(file)), {})

    def fail(*_: Any) -> Any:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "open", fail)
        file.unlink()
        os.write(fd := os.open(file, os.O_WRONLY | os.O_CREAT), b"sk-2")
        os.close(fd)
        for _ in range(4):
            key.refresh()
        assert key.value == "sk-1"
    key.refresh()
    assert key.value == "sk-2"
    assert caplog.text.count("Too many open files") == 1


def test_a_file_that_appears_later_is_followed_too(tmp_path: Path) -> None:
    file = tmp_path / "key"
    key = TargetKey(target(key_file=str(file)), {})
    assert key.value == ""
    change(file, b"sk-1", key)
    assert key.value == "sk-1"


def test_symlinks_are_followed_as_kubernetes_swaps_them(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key").write_text(f"sk-{name}")
    (tmp_path / "current").symlink_to("one")
    key = TargetKey(target(key_file=str(tmp_path / "current" / "key")), {})
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(tmp_path / "current")
    key.refresh()
    key.refresh()
    assert key.value == "sk-two"


def test_problems_name_the_target_and_the_source_once_per_target(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    endpoints = [target(name=f"pool/{number}", pool="pool", key_env="ABSENT") for number in (1, 2)]
    found = [
        *endpoints,
        target(name="folder", key_file=str(tmp_path)),
        target(name="empty", key_file=str(tmp_path / "empty")),
        target(name="bad", key_env="BAD"),
        target(name="good", key_env="GOOD"),
        target(name="none"),
        target(name="outside", location="external", uses_proxy=True),
    ]
    environment = {"BAD": "sk-\x01", "GOOD": "sk-1", "ALL_PROXY": "socks5://p:1080"}
    assert [problem.text for problem in credential_problems(found, environment)] == [
        "target pool: key_env: the variable ABSENT is not set",
        f"target folder: key_file: {tmp_path}: Is a directory",
        f"target empty: key_file: {tmp_path / 'empty'} is empty",
        "target bad: key_env: the variable BAD has a character that cannot be sent in an HTTP header",
        "target outside: ALL_PROXY: expected http://[user:password@]host[:port] or https://...",
    ]


@pytest.mark.parametrize(
    ("fields", "is_minor"),
    [
        ({"location": "in_cluster"}, True),
        ({"url": "https://llm.example.com", "location": "in_cluster"}, True),
        ({"url": "http://127.0.0.1:8002"}, True),
        ({"url": "http://[::1]:8002"}, True),
        ({"url": "http://10.1.2.3"}, True),
        ({"url": "http://localhost:1"}, True),
        ({"url": "http://quality:8002"}, True),
        ({"url": "http://vllm.svc.internal"}, True),
        ({"url": "https://llm.example.com"}, False),
        ({"url": "https://8.8.8.8"}, False),
        ({"url": "litellm:anthropic", "kind": Kind.LITELLM}, False),
    ],
)
@pytest.mark.parametrize("environment", [{}, {"ABSENT": " "}])
def test_an_unset_variable_is_a_warning_only_where_a_key_is_needed(
    fields: dict[str, Any], is_minor: bool, environment: dict[str, str]
) -> None:
    found = target(**{"location": "external", "key_env": "ABSENT", **fields})
    [problem] = credential_problems([found], environment)
    assert problem.is_minor is is_minor


def test_a_key_that_cannot_be_sent_and_a_missing_file_are_always_warnings(tmp_path: Path) -> None:
    found = [target(name="env", key_env="BAD"), target(name="file", key_file=str(tmp_path / "absent"))]
    assert [problem.is_minor for problem in credential_problems(found, {"BAD": "a b"})] == [False, False]


def test_the_shipped_policies_start_without_any_key_and_without_a_warning() -> None:
    files = list((Path(__file__).parents[3] / "policies").glob("*.yaml"))
    assert files
    for file in files:
        assert [each for each in credential_problems(load(file, {}).endpoints, {}) if not each.is_minor] == []


def test_an_unchanged_key_that_is_read_again_is_not_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    file = tmp_path / "key"
    file.write_text("sk-1")
    key = TargetKey(target(key_file=str(file)), {})
    caplog.set_level("INFO")
    with monkeypatch.context() as broken:
        broken.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        os.utime(file, ns=(0, 0))
        for _ in range(3):
            key.refresh()
    key.refresh()
    assert key.value == "sk-1"
    assert (caplog.text.count("Input/output error"), caplog.text.count("key changed")) == (1, 0)
    assert [vars(record)["fields"]["event"] for record in caplog.records] == ["target_key_refused"]
