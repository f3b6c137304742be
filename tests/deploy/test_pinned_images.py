"""Images of others are pinned by digest wherever one is known; the documentation names them, and those without one."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.deploy.rendered import ROOT

DIGEST = r"@sha256:[0-9a-f]{64}"
REFERENCE = re.compile(rf"(?P<name>docker\.io/[\w./-]+):(?P<tag>[\w.-]+)(?P<digest>{DIGEST})?")
FILES = (
    ROOT / "docker-compose.yml",
    ROOT / "deploy/kubernetes/base/redis.yaml",
    *sorted((ROOT / "deploy/images").glob("*.Containerfile")),
)
UNKNOWN = {"docker.io/otel/opentelemetry-collector", "endpoint-picker"}  # their digests are not known here
OURS = {"twolane-gateway", "twolane-worker", "twolane-worker-gpu", "twolane-quality"}  # until they are pushed


def references() -> Iterator[tuple[str, str, str]]:
    """Name, tag and digest of every image of others, in every file that names one."""
    for file in FILES:
        for found in REFERENCE.finditer(file.read_text()):
            yield found["name"], found["tag"], found["digest"] or ""
    redis = yaml.safe_load((ROOT / "deploy/helm/twolane/values.yaml").read_text())["redis"]["image"]
    tag, _, digest = redis["tag"].partition("@")
    yield redis["repository"], tag, f"@{digest}"


def test_every_image_of_others_has_a_digest_unless_none_is_known() -> None:
    found = list(references())
    assert {name for name, _, _ in found} >= {"docker.io/library/redis", "docker.io/library/python"}
    for name, tag, digest in found:
        assert bool(re.fullmatch(DIGEST, digest)) == (name not in UNKNOWN), f"{name}:{tag}"


def test_an_image_has_the_same_tag_and_digest_everywhere() -> None:
    found = set(references())
    assert len(found) == len({name for name, _, _ in found})


def test_the_documentation_lists_every_image_with_its_digest() -> None:
    text = (ROOT / "docs/deployment.md").read_text()
    section = text.partition("### Images by digest")[2].partition("\n## ")[0]
    for name, tag, digest in references():
        short = name.removeprefix("docker.io/library/").removeprefix("docker.io/")
        (line,) = [line for line in section.splitlines() if line.startswith(f"| `{short}:{tag}` |")]
        assert (digest.removeprefix("@sha256:")[:12] if digest else "not known") in line
    for name in OURS:
        assert f"`{name}`" in section


@pytest.mark.parametrize("service", ["redis", "prometheus", "grafana", "collector", "gateway"])
def test_another_image_of_a_service_is_a_variable_of_the_compose_file(service: str) -> None:
    image = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"][service]["image"]
    assert image.startswith(f"${{{service.upper()}_IMAGE:-")


def test_no_manifest_names_an_image_that_these_tests_do_not_know() -> None:
    named: set[str] = set()
    for file in [*Path(ROOT / "deploy/kubernetes").rglob("*.yaml"), ROOT / "docker-compose.yml"]:
        for line in file.read_text().splitlines():
            if (found := re.match(r'\s*image: "?(?:\$\{\w+:-)?([\w./-]+)', line)) is not None:
                named.add(found[1])
    assert named <= {name for name, _, _ in references()} | UNKNOWN | OURS
