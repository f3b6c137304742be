"""The field's words: identifiers, file names and texts that users read keep to the vocabulary of CONTRIBUTING.md."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.structure.syntax_trees import nodes, text_of

ROOT = Path(__file__).parents[2]
PRODUCT = ("gateway", "diffusion_worker", "twolane", "training", "benchmarks", "deploy")

# Private words of the first build, each replaced by a word of vLLM, Envoy, LiteLLM, JSON Schema or automata theory.
RETIRED = frozenset(
    """
    allowance allowances ask asks atom atoms benched benching blame caps chapter crew cursor deed desk door
    doors envelope foretell foretold gift haste hear heard hearer hub hubs hurries judge journey knobs ladder
    lease lexicon lift lifted marks mender mending net nets night notebook parked portions promise
    promises purse recipe relief residence rung rungs scene scrub scrutiny spoil spoils strangers tampering tell
    telling tells ticket told tour trail transcript trouble wiring wishes witness witnesses workshop
    """.split()
)
# Ordinary uses of a retired word: the identifier, and why it may stay.
ALLOWED = {
    "_atom": "the grammar of regular expressions calls it so (ECMA 262)",
    "_ATOM": "RFC 5322 calls it so",
    "_from_hub": "the Hugging Face hub",
}
# Riddles and inversions, which were common in the first texts.
PHRASES = (
    "whoever",
    "but for",
    "passed over",
    "hung up on",
    "hangs up",
    "turned away",
    "makes way",
    "made way",
    "foretold",
    "stands twice",
    "not to be had",
    "benched",
    "at the door",
    "as it lies",
    "other luck",
    "what if it were",
    "tells what",
    "stands for your",
    "in vain",
    "gets company",
    "no leave to",
)
READ_BY_USERS = (
    "README.md",
    "Makefile",
    "CONTRIBUTING.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "docs",
    "policies",
    "deploy",
)
HISTORY = ("docs/log.md", "CHANGELOG.md")


def tracked(*prefixes: str) -> list[Path]:
    """Files of the repository below the prefixes."""
    listed = subprocess.run(["git", "ls-files", *prefixes], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split() if (ROOT / name).is_file()]


@cache
def is_retired(identifier: str) -> bool:
    """Whether a name has a retired word, and no reason to keep it."""
    return identifier not in ALLOWED and not RETIRED.isdisjoint(words_of(identifier))


def words_of(identifier: str) -> list[str]:
    """`TokenSet`, `token_set` and `_token_set` are token and set."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)]


def identifiers(path: Path) -> Iterator[tuple[int, str]]:
    """Names that a file defines: classes, functions, parameters, attributes and variables. Of a file whose text has no
    retired name, none: that is seen without parsing it."""
    if not any(map(is_retired, re.findall(r"\w+", text_of(path)))):
        return
    for node in nodes(path):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def test_identifiers_use_the_words_of_the_field() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in tracked(*PRODUCT)
        if path.suffix == ".py"
        for line, name in identifiers(path)
        if is_retired(name)
    }
    assert not found, "\n".join(sorted(found))


def test_file_names_use_the_words_of_the_field() -> None:
    found = [path for path in tracked(*PRODUCT) if RETIRED.intersection(words_of(path.stem)) and path.suffix == ".py"]
    assert not found


def test_texts_for_users_are_plain() -> None:
    pattern = re.compile("|".join(rf"\b{re.escape(phrase)}\b" for phrase in PHRASES), re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {hit[0]}"
        for path in tracked(*READ_BY_USERS)
        if path.suffix in {".md", ".yaml", ".yml", ".py", ".json", ""} and str(path.relative_to(ROOT)) not in HISTORY
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (hit := pattern.search(line))
    ]
    assert not found, "\n".join(found)


def test_no_folder_holds_more_than_twenty_modules() -> None:
    crowded = {
        str(folder.relative_to(ROOT)): count
        for package in ("gateway", "diffusion_worker", "twolane")
        for folder in {path.parent for path in (ROOT / package).rglob("*.py")}
        if (count := len([path for path in folder.glob("*.py") if not path.name.startswith("__")])) > 20
    }
    assert not crowded
