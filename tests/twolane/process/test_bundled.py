"""Packaged files are found in a checkout and in an installed package, and never override the user's own."""

import importlib
import os
from pathlib import Path

import pytest

from gateway.cli import main as gateway
from twolane.process import bundled

ROOT = Path(__file__).parents[3]


def test_a_checkout_uses_its_own_folders() -> None:
    assert bundled.policy(bundled.DEFAULT_POLICY) == ROOT / "policies" / "default.yaml"
    assert bundled.checkpoint(bundled.TINY_CHECKPOINT) == ROOT / "checkpoints" / "twolane-tiny"


@pytest.mark.parametrize("name", [bundled.DEFAULT_POLICY, bundled.DEMO_POLICY, bundled.CHAOS_POLICY])
def test_every_policy_that_a_command_starts_with_is_there(name: str) -> None:
    assert bundled.policy(name).is_file()


def test_an_installed_package_uses_what_it_carries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if another package has a folder named `policies`."""
    (tmp_path / "twolane" / "_data" / "policies").mkdir(parents=True)
    (tmp_path / "policies").mkdir()
    monkeypatch.setattr(bundled, "files", lambda package: tmp_path / package)
    assert bundled.policy("default.yaml") == tmp_path / "twolane" / "_data" / "policies" / "default.yaml"


def test_the_checkpoints_name_stands_for_it_unless_a_folder_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bundled.resolve_checkpoint("twolane-tiny") == str(ROOT / "checkpoints" / "twolane-tiny")
    for other in ("org/model", "./twolane-tiny", str(tmp_path)):
        assert bundled.resolve_checkpoint(other) == other
    Path("twolane-tiny").mkdir()
    assert bundled.resolve_checkpoint("twolane-tiny") == "twolane-tiny"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The policies that `twolane serve` would have served, without serving them."""
    app = importlib.import_module("gateway.app")
    policies: list[Path] = []

    async def serve(settings: object) -> None:
        policies.append(settings.policy)  # type: ignore[attr-defined]

    monkeypatch.setattr(app, "serve", serve)
    for name in [name for name in os.environ if name.startswith("TWOLANE_")]:
        monkeypatch.delenv(name)
    return policies


def test_serve_takes_the_packaged_policy_where_there_is_none_and_says_so(
    served: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert gateway(["serve"]) == 0
    assert served == [bundled.policy("default.yaml")]
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert str(served[0]) in told


def test_serve_takes_the_policy_of_the_working_directory(
    served: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "default.yaml").write_text("")
    assert gateway(["serve"]) == 0
    assert (served, capsys.readouterr().err) == ([Path("policies/default.yaml")], "")


def test_a_policy_that_was_named_is_never_replaced(
    served: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert gateway(["serve", "--policy", "gone.yaml"]) == 0
    monkeypatch.setenv("TWOLANE_POLICY", "gone-too.yaml")
    assert gateway(["serve"]) == 0
    assert (served, capsys.readouterr().err) == ([Path("gone.yaml"), Path("gone-too.yaml")], "")
