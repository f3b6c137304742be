"""Collects large schemas of real projects from installed packages: `python -m benchmarks.large_schemas OUT.jsonl
[--packages FOLDER] [--update]`.

`large_schemas.tsv` lists them: project, package and version, licence, file, definition in it, size and digest. The
schemas themselves are several megabytes under licences of their own, so they are not stored here: install the packages
(`pip install --no-deps` of the second column) into any environment and name its `site-packages`. The output has one
line per schema, with instances made by `schema_instances`, for `benchmarks.constraints_compile OUT.jsonl --check`.
`--update` writes the list again from what is installed.
"""

import argparse
import csv
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Final

from benchmarks.constraints_compile import LARGE
from benchmarks.schema_instances import instances

LIST: Final = Path(__file__).with_suffix(".tsv")
INSTANCES: Final = 4  # of each kind
MAX_BYTES: Final = 262_144
_LEAST_BYTES: Final = 16_000
_CFN_LINT: Final = 18  # the largest of a thousand resources
_KUBERNETES: Final = (
    *("io.k8s.api.apps.v1.Deployment", "io.k8s.api.apps.v1.StatefulSet", "io.k8s.api.apps.v1.DaemonSet"),
    *("io.k8s.api.core.v1.Pod", "io.k8s.api.core.v1.PersistentVolume", "io.k8s.api.core.v1.Service"),
    *("io.k8s.api.batch.v1.Job", "io.k8s.api.batch.v1.CronJob", "io.k8s.api.networking.v1.Ingress"),
    *("io.k8s.api.networking.v1.NetworkPolicy", "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler"),
    *("io.k8s.api.core.v1.Node", "io.k8s.api.core.v1.Container", "io.k8s.api.apps.v1.ReplicaSet"),
)
_VEGA_LITE: Final = (
    *(
        "AxisConfig",
        "LegendConfig",
        "MarkDef",
        "ScaleConfig",
        "TitleParams",
        "Axis",
        "Legend",
        "ViewConfig",
        "Encoding",
    ),
    *("BarConfig", "Projection", "Scale", "UnitSpec", "Transform"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a schema is from. `definition`: the schema is this definition, with those that it needs."""

    project: str
    package: str  # name==version
    licence: str
    file: str  # in site-packages
    definition: str
    bytes: int
    sha256: str


def schema_of(packages: Path, file: str, definition: str) -> Any:
    """The schema of a file, or of one of its definitions."""
    document = json.loads((packages / file).read_text())
    if not definition:
        return document
    place = "$defs" if "$defs" in document else "definitions"
    needed, todo = dict[str, Any](), [definition]
    while todo:
        name = todo.pop()
        if name not in needed:
            needed[name] = document[place][name]
            todo += _references(needed[name])
    return {
        "$schema": document["$schema"],
        "$ref": f"#/{place}/{definition}",
        place: {name: needed[name] for name in sorted(needed)},
    }


def _references(value: Any) -> Iterator[str]:
    """The names of definitions; none of those listed has an escaped character."""
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)


def _content(schema: Any) -> bytes:
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":")).encode()


def _source(packages: Path, project: str, licence: str, file: Path, definition: str = "") -> Source | None:
    """None: not large, or too large."""
    content = _content(schema_of(packages, str(file), definition))
    if not _LEAST_BYTES <= len(content) <= MAX_BYTES:
        return None
    (installed,) = importlib.metadata.Distribution.discover(name=project, path=[str(packages)])
    return Source(
        project=project,
        package=f"{project}=={installed.version}",
        licence=licence,
        file=str(file),
        definition=definition,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def find(packages: Path) -> Iterator[Source]:
    """The sources among what is installed."""
    candidates: list[tuple[str, str, Path, str]] = []
    vendored = sorted((packages / "check_jsonschema/builtin_schemas/vendor").glob("*.json"))
    candidates += [("check-jsonschema", "Apache-2.0, vendored: MIT, Apache-2.0", path, "") for path in vendored]
    resources = sorted(
        (packages / "cfnlint/data/schemas/resources").glob("*.json"), key=lambda path: -path.stat().st_size
    )
    candidates += [("cfn-lint", "MIT-0", path, "") for path in resources[:_CFN_LINT]]
    versions = sorted((packages / "kubernetes_validate/kubernetes-json-schema").glob("v*-local"))
    for path in versions[-1:]:
        candidates += [("kubernetes-validate", "Apache-2.0", path / "_definitions.json", name) for name in _KUBERNETES]
    for path in sorted((packages / "altair/vegalite").glob("v*/schema/vega-lite-schema.json")):
        candidates += [("altair", "BSD-3-Clause", path, name) for name in _VEGA_LITE]
    for project, licence, path, definition in candidates:
        source = _source(packages, project, licence, path.relative_to(packages), definition)
        if source is not None:
            yield source


def read_list() -> list[Source]:
    """The committed list."""
    with LIST.open(newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file, delimiter="\t"))
    return [Source(**row | {"bytes": int(row["bytes"])}) for row in rows]


def write_list(sources: list[Source]) -> None:
    """Write the list."""
    with LIST.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(field.name for field in fields(Source))
        writer.writerows(astuple(source) for source in sources)


def case(packages: Path, source: Source) -> dict[str, Any]:
    """The line of a schema. Raises ValueError if it is not the one that is listed."""
    schema = schema_of(packages, source.file, source.definition)
    if hashlib.sha256(_content(schema)).hexdigest() != source.sha256:
        raise ValueError(f"{source.file} is not that of {source.package}")
    name = source.definition or Path(source.file).stem
    identity = f"{source.project}: {name}"
    return {
        "id": identity,
        "split": LARGE,
        "licence": source.licence,
        "schema": schema,
        "tests": instances(schema, identity, INSTANCES),
    }


def main() -> int:
    """Command line; returns 1 if a listed schema is not installed in its version."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.jsonl")
    parser.add_argument(
        "--packages", type=Path, required=True, metavar="FOLDER", help="site-packages with the packages"
    )
    parser.add_argument("--update", action="store_true", help="write the list again from what is installed")
    options = parser.parse_args()
    if options.update:
        write_list(list(find(options.packages)))
    failed = False
    with options.out.open("w") as out:
        for source in read_list():
            try:
                out.write(json.dumps(case(options.packages, source)) + "\n")
            except (OSError, ValueError) as error:
                print(f"{source.project}: {error}", file=sys.stderr)
                failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
