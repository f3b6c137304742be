"""The `twolane` command dispatches to subcommands, imports only the one in use, and reports errors in one line."""

import subprocess
import sys
import types
from argparse import ArgumentParser, _SubParsersAction

import pytest

from twolane import cli


def spy(monkeypatch: pytest.MonkeyPatch, module: str) -> list[list[str]]:
    """Replace a module's `main` by a recording one; return its calls."""
    calls: list[list[str]] = []
    stand_in = types.ModuleType(module)
    stand_in.main = lambda argv: calls.append(argv) or 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module, stand_in)
    return calls


@pytest.mark.parametrize(
    ("line", "module", "passed_on"),
    [
        (["serve", "--policy", "p.yaml"], "gateway.serve_command", ["serve", "--policy", "p.yaml"]),
        (["policy", "check", "p.yaml"], "gateway.cli", ["policy", "check", "p.yaml"]),
        (["worker", "--checkpoint", "c"], "diffusion_worker.cli", ["--checkpoint", "c"]),
        (["quality", "--port", "0"], "twolane.quality", ["--port", "0"]),
        (["demo", "--once"], "twolane.demo.command", ["--once"]),
    ],
)
def test_each_command_calls_its_module_and_returns_its_code(
    monkeypatch: pytest.MonkeyPatch, line: list[str], module: str, passed_on: list[str]
) -> None:
    calls = spy(monkeypatch, module)
    assert cli.main(line) == 7
    assert calls == [passed_on]


@pytest.mark.parametrize("line", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in ("serve", "worker", "quality", "policy", "demo"))


def test_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"twolane {cli.version()}\n"


def test_an_unknown_command_is_reported_in_one_line_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serv"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "unknown command 'serv' (choose from init, serve" in line


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
        "sys.exit(c.main(['worker', '--checkpoint', 'twolane-tiny', '--port', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "twolane worker: the package jsonschema is missing: pip install 'twolane[worker]'\n"


def test_a_missing_module_of_our_own_is_not_attributed_to_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> types.ModuleType:
        raise ModuleNotFoundError("No module named 'gateway.gone'", name="gateway.gone")

    monkeypatch.setattr(cli, "import_module", missing)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["serve"])


def test_help_imports_no_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'litellm', 'xllamacpp', 'openai', 'gateway', 'diffusion_worker'}"
    code = f"import sys, twolane.cli as c; c.main([]); sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def parsers_of(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[ArgumentParser]:
    """Every parser that a command builds for `--help`, subcommands included."""
    built: list[ArgumentParser] = []
    monkeypatch.setattr(ArgumentParser, "parse_args", lambda self, *_: built.append(self) or sys.exit(0))
    with pytest.raises(SystemExit):
        cli.main([name])
    for parser in built:
        for action in parser._actions:
            built += action.choices.values() if isinstance(action, _SubParsersAction) else ()
    return built


@pytest.mark.parametrize("name", ["quality", "keys", "demo", "bench", "tune", "chaos", "faults"])
def test_every_argument_has_help_of_its_own(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = parsers_of(name, capsys, monkeypatch)
    assert built
    for parser in built:
        assert parser.description
        actions = [action for action in parser._actions if not isinstance(action, _SubParsersAction)]
        assert all(action.help and len(action.help) >= 10 for action in actions)
        assert parser.description in " ".join(parser.format_help().split())
