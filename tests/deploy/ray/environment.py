"""An environment of its own for Ray, with exact versions, kept between runs in `build/ray-HASH`.

`python -m tests.deploy.ray.environment` builds it. It sees the packages of the environment that runs this, so it holds
only what Ray needs beyond them (about 350 MB).
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]
REQUIREMENTS: Final = Path(__file__).parent / "requirements.txt"


def build() -> Path:
    """The folder of the environment."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode() + str(ROOT).encode()).hexdigest()[:12]
    place = ROOT / "build" / f"ray-{digest}"
    place.parent.mkdir(exist_ok=True)
    with (place.parent / "ray.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be building it
        if not (place / ".ready").exists():
            shutil.rmtree(place, ignore_errors=True)
            _install(place)
            (place / ".ready").touch()
    return place


def _install(place: Path) -> None:
    venv.create(place, with_pip=True)
    line = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", REQUIREMENTS]
    subprocess.run(line, check=True)
    (packages,) = place.glob("lib/python*/site-packages")
    ours = [path for path in sys.path if "site-packages" in path]
    (packages / "ours.pth").write_text("\n".join([str(ROOT), *ours]) + "\n")


if __name__ == "__main__":
    print(build())
