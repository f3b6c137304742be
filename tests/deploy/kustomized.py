"""Renders an overlay with kubectl."""

import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
Manifest = dict[str, Any]


@functools.cache
def built(overlay: str) -> tuple[Manifest, ...]:
    """All manifests of a shipped overlay, or of one in a folder elsewhere, as they would be applied."""
    kubectl = shutil.which("kubectl") or str(ROOT / ".venv" / "bin" / "kubectl")
    if not Path(kubectl).exists() and not os.environ.get("CI"):
        pytest.skip("no kubectl: `make kubectl` gets one")
    folder = Path(overlay)
    line = [kubectl, "kustomize", folder if folder.is_absolute() else ROOT / "deploy/kubernetes/overlays" / overlay]
    done = subprocess.run(line, capture_output=True, text=True, timeout=500, check=True)
    return tuple(yaml.safe_load_all(done.stdout))
