"""Renders an overlay with kubectl, and the chart with helm; each result is kept."""

import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "twolane"
Manifest = dict[str, Any]


@functools.cache
def built(overlay: str) -> tuple[Manifest, ...]:
    """All manifests of a shipped overlay, or of one in a folder elsewhere, as they would be applied."""
    folder = Path(overlay)
    folder = folder if folder.is_absolute() else ROOT / "deploy/kubernetes/overlays" / overlay
    done = run("kubectl", "kustomize", folder)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


@functools.cache
def templated(values: str, *more: str) -> tuple[Manifest, ...]:
    """All manifests of the chart with the values of a file in tests/deploy/values."""
    done = template(values, *more)
    assert done.returncode == 0, done.stderr
    return tuple(manifest for manifest in yaml.safe_load_all(done.stdout) if manifest)


def template(values: str, *more: str) -> subprocess.CompletedProcess[str]:
    """`helm template`, with further options."""
    file = ROOT / "tests" / "deploy" / "values" / f"{values}.yaml"
    return run("helm", "template", "test", CHART, "--namespace", "models", "--values", file, *more)


def run(program: str, *line: str | Path) -> subprocess.CompletedProcess[str]:
    """Run kubectl or helm; skips where it is missing."""
    found = shutil.which(program) or str(ROOT / ".venv" / "bin" / program)
    if not Path(found).exists() and not os.environ.get("CI"):
        pytest.skip(f"no {program}: `make kubectl` gets it")
    return subprocess.run([found, *line], capture_output=True, text=True, timeout=500, check=False)
