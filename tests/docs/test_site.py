"""The documentation site: its reference matches the code, it builds in strict mode, and no link is broken."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.generate import keys_of, pages
from gateway.policy_files.descriptions import DESCRIPTIONS
from gateway.policy_files.load import parse
from gateway.policy_files.schema import editor_schema
from gateway.web.apis.table import APIS

ROOT = Path(__file__).parents[2]
PAGES = dict(pages())


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_what_the_code_says(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == PAGES[name], "run `make docs`"


def test_every_policy_key_is_described_and_nothing_else() -> None:
    assert {key for key, _ in keys_of(editor_schema())} == set(DESCRIPTIONS)


def test_every_flag_of_every_command_is_explained_beside_or_below_it() -> None:
    """In the help texts: a flag's explanation begins two columns behind it, or on the next line."""
    lines = PAGES["reference/cli.md"].splitlines()
    flags = [number for number, line in enumerate(lines) if re.match(r"  -", line)]
    assert len(flags) > 100
    bare = [
        lines[number]
        for number in flags
        if not re.match(r"  -.*?\S {2,}\S", lines[number]) and not re.match(r" {12,}\S", lines[number + 1])
    ]
    assert bare == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Strictly: a missing page, a broken link or a broken anchor fails."""
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "reference" / "settings.html").exists()


def test_the_index_for_language_models_names_existing_pages() -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "docs" / "llms.txt").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_every_api_is_on_its_page() -> None:
    page = (ROOT / "docs" / "apis.md").read_text(encoding="utf-8")
    assert [path for path in APIS if f"| `{path}` |" not in page] == []
    examples = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert [parse(example, {}).aliases for example in examples] == [{"auto"}] * 4


def test_decisions_are_numbered_without_gaps_and_headed_alike() -> None:
    found = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert [int(path.name[:4]) for path in found] == list(range(1, len(found) + 1))
    for number, path in enumerate(found, 1):
        head = path.read_text(encoding="utf-8").partition("\n")[0]
        assert re.fullmatch(rf"# {number}\. \S.*", head), f"{path.name}: {head}"
