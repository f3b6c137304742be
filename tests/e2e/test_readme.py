"""The README is correct: its commands exist, its curl command and its snippet work as printed."""

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PRINTED = "http://127.0.0.1:8080"


def block(language: str, start: str) -> str:
    """The fenced block of this language that begins with `start`."""
    blocks = map(textwrap.dedent, re.findall(rf"^ *```{language}\n(.*?)^ *```", README, re.DOTALL | re.MULTILINE))
    return next(b for b in blocks if b.startswith(start))


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    """The base URL of a demo that only serves."""
    command = [sys.executable, "-m", "twolane", "demo", "--serve-only", "--free-ports"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as demo:
        try:
            assert demo.stdout is not None
            url = None
            for line in demo.stdout:
                if found := re.search(r"Gateway: (http://[\d.:]+)", line):
                    url = found.group(1)
                    break
            assert url, "the demo never served"
            yield url
        finally:
            demo.terminate()
            demo.wait(timeout=500)


@pytest.mark.slow
def test_the_curl_works_as_printed(gateway: str) -> None:
    """The response is correct, and the headers name its lane."""
    command = block("sh", "curl").replace(PRINTED, gateway)
    told = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=500, check=True).stdout
    head, body = told.replace("\r", "").split("\n\n", 1)
    assert head.startswith("HTTP/1.1 200")
    assert "x-twolane-attempts: careful=ok" in head
    assert json.loads(body)["choices"][0]["message"]["content"] == "fix broken token in api"


@pytest.mark.slow
def test_the_snippet_works_as_printed(gateway: str) -> None:
    """The order is valid for its schema."""
    program = block("python", "from openai").replace(PRINTED, gateway)
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=500, check=True)
    assert json.loads(told.stdout) == {"name": "anna", "qty": 3, "item": "red lamp", "day": "monday"}


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
