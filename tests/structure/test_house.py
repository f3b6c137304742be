"""The project's rules that can be checked automatically. import-linter checks import layers in `make check`."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.structure.syntax_trees import parsed, statements

ROOT = Path(__file__).parents[2]
PRODUCT = ("gateway", "diffusion_worker", "twolane", "training", "benchmarks", "deploy")
MAX_FILE_LINES = 400  # a longer file needs its reason in LONGER_FILES
HARD_FILE_LINES = 800
MAX_FUNCTION_LINES = 60
MAX_ARGUMENTS = 6
MEDIAN_FUNCTION_LINES = 12
NAMELESS = {"utils", "util", "helpers", "common", "manager", "base", "misc"}
# A longer file needs its reason here.
LONGER_FILES: dict[str, str] = {
    "diffusion_worker/constraints/schema/builder.py": "one recursion: values, arrays and objects build each other",
    "twolane/process/http/connection.py": "one state machine: reading, timing and closing decide on the same state",
}


def sources() -> list[Path]:
    """Every Python file of the product, without tests."""
    return sorted(path for package in PRODUCT for path in (ROOT / package).rglob("*.py"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function of a file, nested ones included."""
    for node in statements(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, its signature and docstring included."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    """A longer file must have its reason written down."""
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources()
        if (lines := len(path.read_text().splitlines())) > MAX_FILE_LINES
    }
    assert set(long) == set(LONGER_FILES), long
    assert max(long.values(), default=0) <= HARD_FILE_LINES


def test_no_function_is_longer_than_a_screen() -> None:
    """The longest function fits on a screen, and the median one in a dozen lines."""
    lengths = {f"{path.relative_to(ROOT)}:{node.name}": length(node) for path in sources() for node in functions(path)}
    too_long = {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES}
    assert not too_long
    assert sorted(lengths.values())[len(lengths) // 2] <= MEDIAN_FUNCTION_LINES


def test_no_function_takes_more_than_six_arguments() -> None:
    """More than six parameters belong in a record."""
    crowded = {
        f"{path.relative_to(ROOT)}:{node.name}": count
        for path in sources()
        for node in functions(path)
        if (count := _arguments(node)) > MAX_ARGUMENTS
    }
    assert not crowded


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    named = [a.arg for a in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
    return len([name for name in named if name not in ("self", "cls")])


def test_every_module_has_a_name_that_says_something_and_a_docstring() -> None:
    """Files without a specific name attract unrelated code."""
    for path in sources():
        assert path.stem not in NAMELESS, path
        if path.name != "__init__.py":
            assert ast.get_docstring(parsed(path)), f"{path} has no docstring"


def test_broad_exception_handlers_give_their_reason() -> None:
    """`except Exception` is allowed at the outermost level of a process only, with a comment on its line or the line
    before."""
    for path in sources():
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            if re.search(r"except (Base)?Exception\b", line):
                assert "#" in line or "#" in lines[number - 1] or "#" in lines[number + 1], f"{path}:{number + 1}"


@pytest.mark.parametrize("package", ["gateway.cli", "gateway.app", "twolane.cli"])
def test_the_gateway_starts_without_torch_transformers_and_litellm(package: str) -> None:
    """A gateway image has none of the three."""
    code = (
        f"import sys, {package}; "
        "heavy = {'torch', 'transformers', 'litellm', 'xllamacpp'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    outcome = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


def modules_of(code: str) -> set[str]:
    """The modules that this code imports, beside those of a bare interpreter."""
    listing = "import sys; before = set(sys.modules)\n%s\nprint(*sorted(set(sys.modules) - before), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", listing % code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_the_help_text_is_printed_without_importing_any_command() -> None:
    imported = modules_of("from twolane.cli import main; main(['--help'])")
    assert {name for name in imported if name.split(".")[0] in ("twolane", "gateway", "diffusion_worker")} == {
        "twolane",
        "twolane.cli",
        "twolane.process",
        "twolane.process.errors",
    }
    assert len(imported) < 30


def test_the_parent_of_several_processes_imports_no_server() -> None:
    """It has sockets, signals and a dispatcher; each further megabyte would be needed once more per machine."""
    imported = modules_of("import gateway.serve_command, gateway.server.supervisor")
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names | {"gateway", "twolane"}
    assert not {"asyncio", "ssl", "http", "ctypes", "multiprocessing"} & imported
    ours = {name for name in imported if name.startswith("gateway.")}
    assert not {"gateway.app", "gateway.pipeline", "gateway.types", "gateway.routing"} & ours


def test_the_repository_names_no_machine_path() -> None:
    """Users have only the repository, at any path."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    places = re.compile(r"(?<![\w.])/(?:work|home|root)/\w|\.\./shared|index-url|(?<!\w)\.library")
    guilty = [
        name
        for name in listed
        if Path(name).suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ""}
        and name != "tests/structure/test_house.py"
        and (ROOT / name).is_file()
        and places.search((ROOT / name).read_text(errors="ignore"))
    ]
    assert not guilty


def test_every_archive_of_the_providers_extra_is_known_by_its_hash_in_the_pinned_version() -> None:
    """litellm had malicious releases: `make providers` installs exactly the reviewed archives."""
    lines = (ROOT / "requirements-providers.txt").read_text().splitlines()
    asked = [line.rstrip(" \\") for line in lines if line and not line.startswith(("#", " "))]
    hashed = sum(line.startswith("    --hash=sha256:") for line in lines)
    pinned = {
        re.sub(r"[-_.]+", "-", line).lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    assert {re.sub(r"[-_.]+", "-", line).lower() for line in asked} <= pinned
    assert hashed >= len(asked) > 50


def test_every_dependency_has_one_exact_version() -> None:
    """`constraints.txt` pins what pyproject names."""
    pinned = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }
    asked = re.findall(r'"([A-Za-z][\w.-]*)(?:>=|==)', (ROOT / "pyproject.toml").read_text())
    missing = {re.sub(r"[-_.]+", "-", name).lower() for name in asked} - pinned - {"setuptools"}
    assert not missing
