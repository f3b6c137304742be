"""The `twolane` command finds its parts, imports only what is asked for, and refuses the rest in one line."""

import subprocess
import sys
import types

import pytest

from twolane import cli


def spy(monkeypatch: pytest.MonkeyPatch, module: str) -> list[list[str]]:
    """Put a recording `main` in place of a module's own; return what it was called with."""
    calls: list[list[str]] = []
    stand_in = types.ModuleType(module)
    stand_in.main = lambda argv: calls.append(argv) or 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module, stand_in)
    return calls


@pytest.mark.parametrize(
    ("line", "module", "handed"),
    [
        (["serve", "--policy", "p.yaml"], "gateway.cli", ["serve", "--policy", "p.yaml"]),
        (["policy", "check", "p.yaml"], "gateway.cli", ["policy", "check", "p.yaml"]),
        (["worker", "--checkpoint", "c"], "diffusion_worker.cli", ["--checkpoint", "c"]),
        (["quality", "--port", "0"], "twolane.quality", ["--port", "0"]),
        (["demo", "--once"], "twolane.demo.command", ["--once"]),
    ],
)
def test_each_command_reaches_its_part_and_returns_its_code(
    monkeypatch: pytest.MonkeyPatch, line: list[str], module: str, handed: list[str]
) -> None:
    calls = spy(monkeypatch, module)
    assert cli.main(line) == 7
    assert calls == [handed]


@pytest.mark.parametrize("line", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line) == 0
    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in ("serve", "worker", "quality", "policy", "demo"))


def test_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"twolane {cli.version()}\n"


def test_an_unknown_command_is_one_line_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serv"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "'serv'" in line


def test_a_missing_package_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> types.ModuleType:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(cli, "import_module", missing)
    assert cli.main(["worker"]) == 2
    assert capsys.readouterr().err == "twolane worker: the package torch is missing: pip install 'twolane[worker]'\n"


def test_a_package_that_is_missing_after_the_start_is_named_as_well() -> None:
    code = (
        "import sys; sys.modules['jsonschema'] = None; import twolane.cli as c; "
        "sys.exit(c.main(['worker', '--checkpoint', 'nowhere']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "twolane worker: the package jsonschema is missing: pip install 'twolane[worker]'\n"


def test_a_missing_module_of_our_own_is_not_blamed_on_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> types.ModuleType:
        raise ModuleNotFoundError("No module named 'gateway.gone'", name="gateway.gone")

    monkeypatch.setattr(cli, "import_module", missing)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["serve"])


def test_asking_for_help_loads_neither_half_nor_a_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'litellm', 'xllamacpp', 'openai', 'gateway', 'diffusion_worker'}"
    code = f"import sys, twolane.cli as c; c.main([]); sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
