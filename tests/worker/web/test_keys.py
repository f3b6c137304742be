"""web.keys: a file of hashes decides who may ask."""

import hashlib
from pathlib import Path

import pytest

from diffusion_worker.errors import BadSetting
from diffusion_worker.web.keys import load_keys


def line(name: str, key: str) -> str:
    return f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "keys"
    path.write_text(text)
    return path


def test_a_key_is_known_by_its_holder(tmp_path: Path) -> None:
    """Comments and empty lines are passed over."""
    path = written(tmp_path, f"# who may ask\n\n{line('gateway', 'secret-1')}\n  {line('bench', 'secret-2')}\n")
    keys = load_keys(path)
    assert keys.holder(b"secret-1") == "gateway"
    assert keys.holder(b"secret-2") == "bench"
    assert keys.holder(b"secret-3") is None
    assert keys.holder(b"") is None


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "holds no key"),
        ("# only words\n", "holds no key"),
        ("gateway secret\n", "line 1: expected"),
        ("gateway sha256:abc\n", "line 1: expected"),
        (f"{'a'} sha256:{'0' * 64}\na sha256:{'1' * 64}\n", "line 2: the name a stands twice"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, text: str, cause: str) -> None:
    """And what stands there is not repeated: it may be a key."""
    with pytest.raises(BadSetting, match=cause) as caught:
        load_keys(written(tmp_path, text))
    assert "secret" not in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """With the system's words."""
    with pytest.raises(BadSetting, match="No such file"):
        load_keys(tmp_path / "nowhere")


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    """It is no list of keys."""
    (tmp_path / "keys").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadSetting, match="not UTF-8"):
        load_keys(tmp_path / "keys")
