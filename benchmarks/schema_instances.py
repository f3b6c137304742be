"""Generates instances of a JSON Schema: values that follow its keywords at random, and values that differ from these in
one position. What is valid, jsonschema decides; the generator only proposes.

`format` restricts values only where an application says so. Texts are proposed that have the format; where a valid
instance has another text (because a reference hid the format), it is labelled `"formats": false`. What has a format,
jsonschema-rs decides.
"""

import copy
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import jsonschema_rs
from jsonschema.validators import validator_for
from referencing.exceptions import Unresolvable

from diffusion_worker.constraints.schema.document import readable

Json = Any
_TEXTS: Final = (
    *(
        "a",
        "main",
        "x-y",
        "item_1",
        "Name",
        "1",
        "10",
        "1.2.3",
        "v1",
        "true",
        "/tmp/a",
        "./b.yml",
        "*.py",
        "a/b",
        "a:b",
    ),
    *(
        "https://example.org/a",
        "2024-02-29",
        "2024-02-29T12:00:00Z",
        "12:00:00Z",
        "a@example.org",
        "127.0.0.1",
        "::1",
        "PT5M",
        "5m",
        "100Mi",
    ),
    *("arn:aws:s3:::bucket", "ami-0123456789abcdef0", "us-east-1", "0 3 * * *", "#ff0000", "${VAR}", "aa:bb", "A" * 40),
    *("123456789012", "00000000-0000-4000-8000-000000000000", "", "$.a", "TCP", "80", "80:80", "en_US", "text/plain"),
)
_NUMBERS: Final = (0, 1, 2, 3, 5, 10, 60, 80, 100, 443, 1000, 0.5, -1, 3600, 65535)
_OTHERS: Final[tuple[Json, ...]] = (None, True, 7, -0.5, "other", [], {}, [1, "a"], {"unknown": {"a": [{"b": 1}]}})
_MAX_DEPTH: Final = 9
_TRIES: Final = 60


class Generator:
    """Proposes instances of one schema."""

    def __init__(self, schema: Json, seed: str) -> None:
        self._root = schema
        self._random = random.Random(seed)

    def propose(self) -> Json:
        """A value that follows the keywords which this class knows."""
        return self._value(self._root, 0)

    def altered(self, value: Json) -> Json:
        """A copy with one position removed, replaced, or added."""
        changed = copy.deepcopy(value)
        places = list(_places(changed))
        if not places:
            return self._random.choice(_OTHERS)
        parent, key = self._random.choice(places)
        kind = self._random.randrange(3)
        if kind == 0:
            del parent[key]
        elif kind == 1:
            parent[key] = self._random.choice(_OTHERS)
        elif isinstance(parent, dict):
            parent["unknown"] = self._random.choice(_OTHERS)
        else:
            parent.append(self._random.choice(_OTHERS))
        return changed

    def _value(self, schema: Json, depth: int) -> Json:
        if not isinstance(schema, Mapping):
            return self._random.choice(_OTHERS)
        schema = self._merged(schema, depth)
        if "const" in schema:
            return copy.deepcopy(schema["const"])
        if schema.get("enum"):
            return copy.deepcopy(self._random.choice(schema["enum"]))
        named = schema.get("type") or _implied(schema)
        kind = self._random.choice(named) if isinstance(named, list) else named
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        return self._scalar(schema, kind)

    def _scalar(self, schema: Mapping[str, Json], kind: str) -> Json:
        match kind:
            case "string":
                return self._text(schema)
            case "integer" | "number":
                return self._number(schema, kind)
            case "boolean":
                return self._random.random() < 0.5
            case "null":
                return None
        return self._random.choice(_OTHERS)

    def _merged(self, schema: Mapping[str, Json], depth: int) -> Mapping[str, Json]:
        """The schema with its references and combinators merged in, one branch of each alternative."""
        for _ in range(_MAX_DEPTH):
            parts: list[Json] = []
            if isinstance(reference := schema.get("$ref"), str):
                parts.append(self._target(reference))
            parts += schema.get("allOf", ())
            for keyword in ("anyOf", "oneOf"):
                if options := schema.get(keyword):
                    parts.append(self._random.choice(options[:2] if depth > _MAX_DEPTH // 2 else options))
            if not parts:
                break
            rest = {name: value for name, value in schema.items() if name not in ("$ref", "allOf", "anyOf", "oneOf")}
            schema = _joined(rest, [part for part in parts if isinstance(part, Mapping)])
        return schema

    def _target(self, reference: str) -> Json:
        here = self._root
        for token in reference.removeprefix("#").split("/")[1:]:
            name = token.replace("~1", "/").replace("~0", "~").replace("%20", " ")
            here = here[int(name)] if isinstance(here, list) else here.get(name, {})
        return here if reference.startswith("#") else {}

    def _object(self, schema: Mapping[str, Json], depth: int) -> Json:
        properties = schema.get("properties", {})
        required = [name for name in schema.get("required", ()) if isinstance(name, str)]
        chance = 0.0 if depth >= _MAX_DEPTH else min(0.5, 4 / (1 + len(properties)))
        names = [*required, *(n for n in properties if n not in required and self._random.random() < chance)]
        found = {name: self._value(properties.get(name, {}), depth + 1) for name in names}
        rest = schema.get("additionalProperties", True)
        if rest is not False and depth < _MAX_DEPTH and (self._random.random() < 0.3 or not properties):
            found[self._random.choice(("extra", "my-key", "x1"))] = self._value(rest, depth + 1)
        for pattern, inner in schema.get("patternProperties", {}).items():
            if self._random.random() < 0.5 and (fitting := _fitting(pattern)):
                found[self._random.choice(fitting)] = self._value(inner, depth + 1)
        return found

    def _array(self, schema: Mapping[str, Json], depth: int) -> Json:
        items = schema.get("items", {})
        least = schema.get("minItems", 0)
        count = least if depth >= _MAX_DEPTH else max(least, self._random.randint(0, 2))
        if isinstance(items, list):
            return [self._value(item, depth + 1) for item in items]
        return [self._value(items, depth + 1) for _ in range(min(count, 8))]

    def _text(self, schema: Mapping[str, Json]) -> str:
        named = schema.get("format")
        fitting = [text for text in _fitting(schema.get("pattern", "")) if _has_format(named, text)]
        low, high = schema.get("minLength", 0), schema.get("maxLength", 1 << 20)
        sized = [text for text in fitting if low <= len(text) <= high]
        return self._random.choice(sized or fitting or _TEXTS)

    def _number(self, schema: Mapping[str, Json], kind: str) -> Json:
        low, high = schema.get("minimum", -10), schema.get("maximum", 1 << 20)
        fitting = [n for n in (*_NUMBERS, low, high) if low <= n <= high and (kind == "number" or n == int(n))]
        return self._random.choice(fitting or [low])


def instances(schema: Json, seed: str, count: int) -> list[dict[str, Json]]:
    """Up to `count` valid and as many invalid instances, as `{"valid", "data"}`, without repetitions; none for a schema
    that jsonschema cannot apply, for example because of a regular expression that `re` does not read."""
    try:
        return _instances(schema, seed, count)
    except (re.error, Unresolvable):
        return []


def _instances(schema: Json, seed: str, count: int) -> list[dict[str, Json]]:
    schema = readable(schema)
    validator, generator = validator_for(schema)(schema), Generator(schema, seed)
    found: dict[bool, list[Json]] = {True: [], False: []}
    for _ in range(_TRIES):
        seeds = found[True] or [generator.propose()]
        for value in (generator.propose(), generator.altered(seeds[-1])):
            valid = validator.is_valid(value)
            if value not in found[valid] and len(found[valid]) < count:
                found[valid].append(value)
        if all(len(values) == count for values in found.values()):
            break
    has_formats = _format_checker(schema)
    return [
        {"valid": valid, "data": value} | ({"formats": False} if valid and not has_formats(value) else {})
        for valid, values in found.items()
        for value in values
    ]


def _format_checker(schema: Json) -> Callable[[Json], bool]:
    """Whether a valid instance has the formats that the schema names. True where jsonschema-rs cannot say."""
    try:
        return jsonschema_rs.validator_for(schema, validate_formats=True, offline=True).is_valid
    except (jsonschema_rs.ValidationError, ValueError):
        return lambda _: True


@lru_cache(maxsize=4096)
def _has_format(name: Json, text: str) -> bool:
    return jsonschema_rs.Draft202012Validator({"format": str(name)}, validate_formats=True).is_valid(text)


def _implied(schema: Mapping[str, Json]) -> str:
    if any(name in schema for name in ("properties", "required", "patternProperties", "additionalProperties")):
        return "object"
    return "array" if "items" in schema else "string" if "pattern" in schema else ""


def _joined(schema: Mapping[str, Json], parts: Sequence[Mapping[str, Json]]) -> Mapping[str, Json]:
    joined = dict(schema)
    for part in parts:
        for name, value in part.items():
            if name == "properties":
                joined[name] = {**value, **joined.get(name, {})}
            elif (name == "required" and isinstance(value, list)) or name == "allOf":
                joined[name] = [*joined.get(name, ()), *value]
            else:
                joined.setdefault(name, value)
    return joined


def _fitting(pattern: str) -> list[str]:
    try:
        return [text for text in _TEXTS if re.search(pattern, text)]
    except re.error:
        return []


def _places(value: Json) -> Iterator[tuple[Json, Any]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield value, key
        yield from _places(part)
