"""The README is correct: its commands and files exist, and the steps to one's own models work as printed.
`test_demo.py` sends its requests."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.web.apis.table import APIS
from tests.e2e.readme import README, ROOT, block


def test_every_named_command_and_file_exists() -> None:
    """make targets, twolane commands and links."""
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    help_text = subprocess.run(
        [sys.executable, "-m", "twolane", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for command in re.findall(r"`twolane (\w+)", README):
        assert f"  {command} " in help_text, command
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_every_endpoint_is_listed() -> None:
    assert [path for path in (*APIS, "/v1/models", "/v1/feedback") if f"`{path}`" not in README] == []


@pytest.mark.slow
def test_the_steps_to_your_own_models_work_as_printed(tmp_path: Path) -> None:
    """`twolane init` writes a policy with the key of the quality lane, and both policies are valid."""
    export = block("sh", "export WORKER_URL").strip()
    steps = (
        block("sh", "twolane init")
        .replace("twolane ", f"{sys.executable} -m twolane ")
        .replace("--out", "--no-probe --out")
    )
    (tmp_path / "printed.yaml").write_text(block("yaml", "version: 1"))
    script = f"set -e\n{export}\n{steps}\n{sys.executable} -m twolane policy check printed.yaml"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "key_env: QUALITY_API_KEY" in (tmp_path / "twolane.yaml").read_text()
