"""The committed bundle of the console is what its sources give, and small."""

import gzip
from pathlib import Path

import pytest

from deploy.console import build

MAX_BYTES = 300_000  # gzipped, of all that the page loads


@pytest.mark.skipif(not build.is_prepared(), reason="Node is not installed: make console-tools")
def test_the_committed_bundle_is_what_the_sources_give(tmp_path: Path) -> None:
    environment = build.prepare()
    build.run(environment, "typescript/bin/tsc", "--project", ".")
    build.bundle(environment, tmp_path)
    built = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    committed = {file.name: file.read_bytes() for file in build.STATIC.iterdir()}
    assert built.keys() == committed.keys()
    differing = [name for name, content in built.items() if committed[name] != content]
    assert differing == [], "run `make console`"


def test_the_page_is_small_and_loads_nothing_from_elsewhere() -> None:
    files = {file.name: file.read_bytes() for file in build.STATIC.iterdir()}
    assert sum(len(gzip.compress(content)) for content in files.values()) <= MAX_BYTES
    page = files["index.html"].decode()
    assert "//" not in page, "no address of another host"
    assert "url(" not in files["console.css"].decode()
