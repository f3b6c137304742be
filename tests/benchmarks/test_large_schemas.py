"""The list of large schemas, how they are taken from packages, and the instances that are made of them."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from benchmarks.constraints_compile import LARGE
from benchmarks.large_schemas import MAX_BYTES, Source, case, read_list, schema_of
from benchmarks.schema_instances import instances

TREE: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {"name": {"type": "string", "pattern": "^v"}, "size": {"type": "integer", "minimum": 3}},
    "required": ["name"],
    "additionalProperties": False,
}
DEFINED = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "definitions": {"a": {"items": {"$ref": "#/definitions/b"}}, "b": {"type": "null"}, "c": {"type": "string"}},
}


def test_the_list_has_sixty_large_schemas_of_several_projects() -> None:
    sources = read_list()
    assert len(sources) >= 60
    assert len({source.project for source in sources}) >= 4
    assert all(16_000 <= source.bytes <= MAX_BYTES and source.licence for source in sources)
    assert len({source.sha256 for source in sources}) == len(sources)


def test_a_definition_comes_with_those_that_it_needs(tmp_path: Path) -> None:
    (tmp_path / "all.json").write_text(json.dumps(DEFINED))
    found = schema_of(tmp_path, "all.json", "a")
    assert (found["$ref"], sorted(found["definitions"])) == ("#/definitions/a", ["a", "b"])
    assert schema_of(tmp_path, "all.json", "") == DEFINED


def test_a_schema_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree.json").write_text(json.dumps(TREE))
    digest = "2d" * 32
    source = Source(
        project="tree", package="tree==1", licence="MIT", file="tree.json", definition="", bytes=1, sha256=digest
    )
    with pytest.raises(ValueError, match="not that of tree==1"):
        case(tmp_path, source)
    written = json.dumps(TREE, separators=(",", ":")).encode()
    found = case(tmp_path, replace(source, sha256=hashlib.sha256(written).hexdigest()))
    assert (found["split"], found["schema"]) == (LARGE, TREE)
    assert found["tests"]


def test_instances_are_labelled_by_jsonschema_and_repeatable() -> None:
    found = instances(TREE, "seed", 3)
    validator = jsonschema.Draft7Validator(TREE)
    assert all(validator.is_valid(each["data"]) == each["valid"] for each in found)
    assert {each["valid"] for each in found} == {True, False}
    assert found == instances(TREE, "seed", 3)


def test_a_schema_that_jsonschema_cannot_apply_has_no_instances() -> None:
    assert instances({"type": "string", "pattern": r"\p{Script=Greek}"}, "seed", 3) == []


def test_instances_have_the_formats_that_the_schema_names() -> None:
    """Where a format is out of sight, the label says that the text lacks it."""
    schema = {"type": "object", "properties": {"a": {"type": "string", "format": "date"}}, "required": ["a"]}
    valid = [each for each in instances(schema, "seed", 4) if each["valid"]]
    assert {each["data"]["a"] for each in valid} == {"2024-02-29"}
    assert not any("formats" in each for each in valid)
    hidden = {"type": "string", "not": {"not": {"format": "date"}}}
    assert any(each.get("formats") is False for each in instances(hidden, "seed", 4))


def test_patterns_may_name_properties_of_unicode() -> None:
    """Which `re` does not know."""
    assert {each["valid"] for each in instances({"type": "string", "pattern": r"^\p{Lu}"}, "seed", 3)} == {True, False}
