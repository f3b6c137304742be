"""docker-compose.yml and the images' recipes: valid, confined, pinned, and consistent with the programs they start."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.compose.make_secrets import PROMETHEUS_DATA, set_user, user_of_containers
from deploy.compose.make_secrets import main as make_secrets
from diffusion_worker.settings import PREFIX as WORKER_PREFIX
from diffusion_worker.settings import Settings as WorkerSettings
from gateway.settings import PREFIX, Settings
from twolane.admin.client import KEY, KEY_FILE
from twolane.process.api_keys import load_keys

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
RECIPES = sorted((ROOT / "deploy" / "images").glob("*.Containerfile"))
BIN = Path(sys.executable).parent


def services() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return read


def test_the_file_is_one_that_compose_takes(tmp_path: Path) -> None:
    assert check(COMPOSE).returncode == 0
    misspelt = tmp_path / "docker-compose.yml"
    misspelt.write_text(COMPOSE.read_text().replace("depends_on:", "depend_on:"))
    assert check(misspelt).returncode != 0


def check(file: Path) -> subprocess.CompletedProcess[str]:
    line = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", file]
    return subprocess.run(line, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_passes_the_lint(recipe: Path) -> None:
    linter = shutil.which("hadolint", path=str(BIN))
    assert linter is not None
    done = subprocess.run([linter, recipe], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout


def test_every_service_is_confined_limited_and_pinned() -> None:
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "memory" in service["deploy"]["resources"]["limits"], name
        assert "build" in service or re.search(r":v?\d+\.\d+", service["image"]), name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name}: {port} is open to the network"


def test_what_is_built_is_built_by_a_recipe_that_is_there() -> None:
    used = {ROOT / one["build"]["dockerfile"] for one in services().values() if "build" in one}
    assert used == set(RECIPES)


def test_what_a_recipe_copies_is_sent_to_the_builder() -> None:
    """.dockerignore excludes everything that it does not name."""
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for recipe in RECIPES:
        lines = re.findall(r"^COPY (?!--from)(.+)$", recipe.read_text(), re.MULTILINE)
        assert lines
        assert {name for line in lines for name in line.split()[:-1]} <= sent, recipe.name


def test_settings_are_those_of_the_processes() -> None:
    known = {PREFIX + name.upper() for name in Settings.__dataclass_fields__}
    known |= {WORKER_PREFIX + name.upper() for name in WorkerSettings.__dataclass_fields__} | {KEY, KEY_FILE}
    text = COMPOSE.read_text() + "".join(recipe.read_text() for recipe in RECIPES)
    assert set(re.findall(r"TWOLANE_[A-Z_]+", text)) <= known


def test_the_gateway_logs_every_decision_as_json_beside_its_own_log() -> None:
    environment = services()["gateway"]["environment"]
    assert (environment["TWOLANE_DECISION_LOG"], environment["TWOLANE_LOG"]) == ("/dev/stdout", "json")


def test_the_gateway_that_calls_providers_is_a_build_argument_of_its_recipe() -> None:
    build = services()["gateway"]["build"]
    assert build["args"] == {"PROVIDERS": "${PROVIDERS:-}"}
    recipe = (ROOT / build["dockerfile"]).read_text()
    assert 'ARG PROVIDERS=""' in recipe
    assert "--require-hashes -r requirements-providers.txt" in recipe


def test_gateway_and_workers_send_their_spans_to_the_same_place() -> None:
    told = {
        name: service["environment"].get("OTEL_EXPORTER_OTLP_ENDPOINT")
        for name, service in services().items()
        if name in ("gateway", "worker", "worker-gpu")
    }
    assert len(told) == 3
    assert set(told.values()) == {"${OTEL_EXPORTER_OTLP_ENDPOINT:-}"}


def test_what_is_mounted_is_there() -> None:
    for name, service in services().items():
        for volume in service.get("volumes", ()):
            source = re.sub(r"\$\{\w+:-([^}]+)\}", r"\1", volume).split(":")[0]
            made = ROOT / source == PROMETHEUS_DATA  # by `make secrets`
            assert not source.startswith(".") or made or (ROOT / source).exists(), f"{name}: {source}"


def test_the_secrets_open_what_they_are_for_and_are_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "secrets"
    assert make_secrets(folder) == 0
    application = capsys.readouterr().out.strip()
    metrics, admin = ((folder / f"{name}-key").read_text().encode() for name in ("metrics", "admin"))
    worker = (folder / "gateway.env").read_text().strip().removeprefix("WORKER_API_KEY=").encode()
    gateway_keys, worker_keys = load_keys(folder / "gateway-keys"), load_keys(folder / "worker-keys")
    granted = [
        (gateway_keys.find(application.encode()), "application", {"ask"}),
        (gateway_keys.find(metrics), "metrics", {"metrics"}),
        (worker_keys.find(worker), "gateway", {"ask"}),
        (worker_keys.find(metrics), "metrics", {"metrics"}),
        (gateway_keys.find(admin), "admin", {"admin"}),
        (worker_keys.find(admin), "admin", {"admin"}),
    ]
    for key, name, scopes in granted:
        assert key is not None
        assert (key.name, key.scopes) == (name, scopes)
    assert gateway_keys.find(worker) is None
    named = yaml.safe_load(COMPOSE.read_text())["secrets"].values()
    assert {Path(one["file"]).name for one in named} | {"gateway.env"} == {file.name for file in folder.iterdir()}
    assert make_secrets(folder) == 1


def test_only_their_owner_reads_the_secrets_and_the_containers_run_as_that_owner(tmp_path: Path) -> None:
    assert make_secrets(tmp_path / "secrets") == 0
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "secrets").iterdir()} == {0o600}
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    for name, service in services().items():
        assert not service.get("secrets") or service["user"] == "${SECRETS_USER:-10001:10001}", name


@pytest.mark.parametrize("before", ["A=1\nSECRETS_USER=10001:10001\n", "A=1\n", "A=1", "SECRETS_USER=1:1\nA=1"])
def test_the_user_of_the_containers_is_noted_once(tmp_path: Path, before: str) -> None:
    file = tmp_path / ".env"
    file.write_text(before)
    for user in ("1000:100", "1001:100"):
        set_user(file, user)
    assert file.read_text() == "A=1\nSECRETS_USER=1001:100\n"


def test_the_user_is_noted_where_there_was_no_file(tmp_path: Path) -> None:
    set_user(tmp_path / ".env", "1000:100")
    assert (tmp_path / ".env").read_text() == "SECRETS_USER=1000:100\n"


def test_the_environment_names_the_user_who_reads_the_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRETS_USER", f"{os.getuid()}:{os.getgid()}")
    assert make_secrets(tmp_path / "secrets") == 0
    assert {file.stat().st_uid for file in (tmp_path / "secrets").iterdir()} == {os.getuid()}
    assert user_of_containers() == f"{os.getuid()}:{os.getgid()}"


def test_a_user_by_name_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECRETS_USER", "ann")
    assert make_secrets(tmp_path / "secrets") == 1
    assert "SECRETS_USER: must be UID:GID" in capsys.readouterr().err
    assert not (tmp_path / "secrets").exists()
