"""The JSON Schema for editors agrees with the loader, as far as a schema can express it."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from gateway.cli import main
from gateway.enums import Buffer, Capability, Task
from gateway.policy_files.descriptions import DESCRIPTIONS
from gateway.policy_files.schema import SAMPLE, editor_schema
from gateway.routing.engine_profiles import ENGINES
from tests.gateway.policy_files.conftest import VALID

POLICIES = Path(__file__).parents[3] / "policies"
SCHEMA = editor_schema()


def is_valid(text: str) -> bool:
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(YAML(typ="safe").load(text))


def test_the_committed_schema_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "schema"]) == 0
    assert (POLICIES / "schema.json").read_text() == capsys.readouterr().out


def test_it_is_a_valid_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", sorted(POLICIES.glob("**/*.yaml")), ids=lambda path: path.name)
def test_shipped_policies_are_valid_and_refer_to_the_schema(path: Path) -> None:
    assert is_valid(path.read_text())
    way = "../" * (len(path.relative_to(POLICIES).parts) - 1) or "./"
    assert path.read_text().startswith(f"# yaml-language-server: $schema={way}schema.json\n")


def test_policies_that_load_are_valid() -> None:
    assert is_valid(VALID)
    assert is_valid(SAMPLE)
    assert is_valid(VALID.replace("max_in_flight: 16", 'max_in_flight: "${MOST:-16}"'))


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
def test_policies_that_are_refused_are_invalid(refused: Callable[..., object], old: str, new: str) -> None:
    assert refused(old, new)
    assert not is_valid(VALID.replace(old, new, 1))


def keys_of(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every key below a node, as in error messages but with wildcards."""
    for option in node.get("anyOf", ()):
        yield from keys_of(option, path)
    for key, value in node.get("properties", {}).items():
        inner = f"{path}.{key}" if path else key
        yield inner, value
        yield from keys_of(value, inner)
    if isinstance(each := node.get("additionalProperties"), dict):
        yield f"{path}.*", each
        yield from keys_of(each, f"{path}.*")
    if isinstance(each := node.get("items"), dict):
        yield from keys_of(each, f"{path}[]")


def test_every_key_has_a_description() -> None:
    found = list(keys_of(SCHEMA))
    assert {path for path, _ in found} == set(DESCRIPTIONS)
    assert [path for path, value in found if value.get("description") != DESCRIPTIONS[path]] == []


@pytest.mark.parametrize("value", [*Task, *Capability, *ENGINES, *Buffer])
def test_every_enum_value_is_in_the_schema(value: str) -> None:
    assert f'"{value}"' in json.dumps(SCHEMA)
