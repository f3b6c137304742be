"""Validates manifests strictly: unknown keys and unknown kinds are errors.

The schemas of Kubernetes are those of kubernetes-validate, whose own function reads them again for every manifest;
those of custom resources are in `schemas`.
"""

import functools
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
from kubernetes_validate import utils
from referencing import Registry, Resource

Manifest = dict[str, Any]
CUSTOM = Path(__file__).parent / "schemas"
NEWEST = tuple(dict.fromkeys(utils.major_minor(version) for version in utils.all_versions()))[-3:]


class InvalidManifestError(Exception):
    """A manifest that a cluster would reject, or of a kind that no schema describes."""


def check(manifest: Manifest, minor: str) -> None:
    """Raises InvalidManifestError that names the manifest, the place and the reason."""
    validator = _validator(manifest["kind"], manifest["apiVersion"], minor)
    fault = jsonschema.exceptions.best_match(validator.iter_errors(manifest))
    if fault is not None:
        named = f"{manifest['kind']} {manifest['metadata']['name']} ({minor})"
        raise InvalidManifestError(f"{named}: {fault.json_path}: {fault.message}")


@functools.cache
def _validator(kind: str, api_version: str, minor: str) -> Any:
    custom = CUSTOM / f"{kind}.json"
    if custom.exists():
        schema = json.loads(custom.read_text())
        if api_version not in schema["properties"]["apiVersion"]["enum"]:
            raise InvalidManifestError(f"{kind}: unknown version {api_version}")
        return jsonschema.Draft202012Validator(schema)
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    file = _folder(minor) / f"{kind.lower()}-{group}.json"
    if not file.is_file():
        raise InvalidManifestError(f"{kind} {api_version}: Kubernetes {minor} has no such kind")
    schema = json.loads(file.read_text())
    return jsonschema.Draft202012Validator(schema, registry=Resource.from_contents(schema) @ _definitions(minor))


@functools.cache
def _definitions(minor: str) -> Registry[Any]:
    definitions: Registry[Any] = Registry()
    return Resource.from_contents(json.loads((_folder(minor) / "_definitions.json").read_text())) @ definitions


def _folder(minor: str) -> Any:
    return resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{minor}.0-local-strict"
