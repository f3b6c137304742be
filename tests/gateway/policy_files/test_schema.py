"""The schema for editors says what the loader says, as far as a schema can."""

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from gateway.cli import main
from gateway.enums import Buffer, Capability, Task
from gateway.policy_files.schema import SAMPLE, editor_schema
from gateway.routing.engine_profiles import ENGINES
from tests.gateway.policy_files.conftest import VALID

POLICIES = Path(__file__).parents[3] / "policies"
SCHEMA = editor_schema()


def is_fine(text: str) -> bool:
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(YAML(typ="safe").load(text))


def test_the_file_that_editors_read_is_the_schema_of_now(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "schema"]) == 0
    assert (POLICIES / "schema.json").read_text() == capsys.readouterr().out


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", sorted(POLICIES.glob("**/*.yaml")), ids=lambda path: path.name)
def test_what_is_shipped_is_fine_and_names_the_schema(path: Path) -> None:
    assert is_fine(path.read_text())
    way = "../" * (len(path.relative_to(POLICIES).parts) - 1) or "./"
    assert path.read_text().startswith(f"# yaml-language-server: $schema={way}schema.json\n")


def test_what_the_loader_takes_is_fine() -> None:
    assert is_fine(VALID)
    assert is_fine(SAMPLE)
    assert is_fine(VALID.replace("max_in_flight: 16", 'max_in_flight: "${MOST:-16}"'))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("aliases:", "alias:"),
        ("window_s: 60", "windows: 60"),
        ("[edit, auto", "[edti, auto"),
        ("buffer: full", "buffer: fulll"),
        ("location: in_cluster", "place: cluster"),
        ("engine: vllm", "engine: vlm"),
        ("kind: worker", "kind: scripted"),
        ("p95_ms: 400", "p95_ms: soon"),
        ("p95_ms: 400", "p95_ms: 0"),
        ("max_in_flight: 16", "max_in_flight: 1.5"),
        ("    model: diffusion\n", ""),
        ('">= 0.6"', '"~ 0.6"'),
        ("deadline_ms: 3000", "hedge: {max_share: 0.9}"),
        ("max_in_flight: 16", "retry: {times: 9}"),
        ("when: {", "when: {header: {x-team: 5}, "),
        ("when: {", "when: {time: [{days: [mo]}], "),
        ("when: {", 'when: {time: {from: "8"}, '),
        ("use: fast", "use: {fast: most}"),
        ("deadline_ms: 3000", "shadow: {share: 0.1}"),
        ("routes:\n", "routes: []\nold:\n"),
    ],
)
def test_what_the_loader_refuses_is_marked(refused: Callable[..., object], old: str, new: str) -> None:
    assert refused(old, new)
    assert not is_fine(VALID.replace(old, new, 1))


@pytest.mark.parametrize("word", [*Task, *Capability, *ENGINES, *Buffer])
def test_every_word_is_offered(word: str) -> None:
    assert f'"{word}"' in json.dumps(SCHEMA)
