"""The check of manifests finds misspelt keys, wrong values, and kinds and versions that it does not know."""

import copy
from typing import Any

import pytest

from tests.deploy.rendered import Manifest, built, templated
from tests.deploy.schema_check import NEWEST, InvalidManifestError, check


def find(kind: str) -> Manifest:
    everything = (*built("gpu"), *templated("engine"), *templated("pool"))
    return copy.deepcopy(next(manifest for manifest in everything if manifest["kind"] == kind))


def test_three_minors_are_checked() -> None:
    assert len(set(NEWEST)) == 3


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Deployment", ("spec", "template", "spec")),
        ("HorizontalPodAutoscaler", ("spec",)),
        ("ScaledObject", ("spec",)),
        ("ScaledObject", ("spec", "advanced", "horizontalPodAutoscalerConfig", "behavior")),
        ("ServiceMonitor", ("spec", "endpoints", 0)),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0)),
        ("HTTPRoute", ("spec", "rules", 0)),
        ("InferencePool", ("spec", "endpointPickerRef")),
        ("InferencePool", ("metadata",)),
    ],
)
def test_a_misspelt_key_is_found_at_any_depth(kind: str, path: tuple[str | int, ...]) -> None:
    manifest = find(kind)
    check(manifest, NEWEST[-1])
    place: Any = manifest
    for step in path:
        place = place[step]
    place["minReplicaCont"] = 1
    with pytest.raises(InvalidManifestError, match="minReplicaCont"):
        check(manifest, NEWEST[-1])


@pytest.mark.parametrize("change", [{"kind": "Deploymant"}, {"apiVersion": "apps/v9"}])
def test_an_unknown_kind_or_version_fails(change: dict[str, str]) -> None:
    with pytest.raises(InvalidManifestError):
        check(find("Deployment") | change, NEWEST[0])


def test_an_unknown_version_of_a_custom_resource_fails() -> None:
    with pytest.raises(InvalidManifestError, match="unknown version"):
        check(find("ScaledObject") | {"apiVersion": "keda.sh/v9"}, NEWEST[0])


def test_a_value_of_the_wrong_type_fails() -> None:
    manifest = find("InferencePool")
    manifest["spec"]["targetPorts"] = [{"number": "8001"}]
    with pytest.raises(InvalidManifestError, match="targetPorts"):
        check(manifest, NEWEST[0])
