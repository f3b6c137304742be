"""The chart, rendered with four sets of values: strictly valid, consistent, and like the overlays."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffusion_worker.settings import PREFIX as WORKER_PREFIX
from diffusion_worker.settings import Settings as WorkerSettings
from gateway import __version__
from gateway.policy_files.load import parse
from gateway.settings import PREFIX, Settings
from tests.deploy.known import RULES
from tests.deploy.rendered import CHART, ROOT, Manifest, built, run, template, templated
from tests.deploy.schema_check import NEWEST, check

VALUES = tuple(sorted(file.stem for file in (ROOT / "tests/deploy/values").glob("*.yaml")))
ENVIRONMENT = {"QUALITY_URL": "http://q", "QUALITY_MODEL": "m"}
OF_TWOLANE_ADMIN = {"TWOLANE_ADMIN_KEY"}


def find(values: str, kind: str, end: str = "") -> Manifest:
    (found,) = [one for one in templated(values) if one["kind"] == kind and one["metadata"]["name"].endswith(end or "")]
    return found


def pods(values: str) -> list[tuple[Manifest, Manifest]]:
    """The pod specs of a rendering, with their manifests."""
    return [(one, one["spec"]["template"]["spec"]) for one in templated(values) if one["kind"] in ("Deployment", "Job")]


def container(values: str, name: str) -> Manifest:
    (found,) = [part for _, spec in pods(values) for part in spec["containers"] if part["name"] == name]
    return found


def variables(part: Manifest) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in part.get("env", ())}


@pytest.mark.parametrize("minor", NEWEST)
@pytest.mark.parametrize("values", VALUES)
def test_every_manifest_is_valid_to_the_letter(values: str, minor: str) -> None:
    for manifest in templated(values):
        check(manifest, minor)


def test_the_chart_has_the_version_of_the_programs() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


def test_the_chart_has_no_lint() -> None:
    done = run("helm", "lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("values", VALUES)
def test_names_are_unique_and_in_the_release_and_its_namespace(values: str) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in templated(values)]
    assert len(set(names)) == len(names)
    prefix = "models" if values == "engine" else "test-twolane"
    assert all(name.startswith(prefix) for _, name in names)
    assert {one["metadata"]["namespace"] for one in templated(values)} == {"models"}


@pytest.mark.parametrize("values", VALUES)
def test_what_a_manifest_refers_to_exists(values: str) -> None:
    """Services select pods, autoscalers and routes name deployments and services, volumes name claims and policies."""
    by_name = {(one["kind"], one["metadata"]["name"]) for one in templated(values)}
    labels = [one["spec"]["template"]["metadata"]["labels"] for one, _ in pods(values)]
    for one in templated(values):
        spec = one.get("spec", {})
        if one["kind"] == "Service":
            assert any(spec["selector"].items() <= pod.items() for pod in labels)
        if "scaleTargetRef" in spec:
            assert ("Deployment", spec["scaleTargetRef"]["name"]) in by_name
        if one["kind"] == "ServiceMonitor":
            wanted = spec["selector"]["matchLabels"].items()
            services = [each for each in templated(values) if each["kind"] == "Service"]
            (service,) = [each for each in services if wanted <= each["metadata"]["labels"].items()]
            assert spec["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
        if one["kind"] == "HTTPRoute":
            assert ("Service", spec["rules"][0]["backendRefs"][0]["name"]) in by_name
        if one["kind"] in ("PodDisruptionBudget", "InferencePool"):
            assert any(spec["selector"]["matchLabels"].items() <= pod.items() for pod in labels)
    for _, spec in pods(values):
        for volume in spec.get("volumes", ()):
            claim, policy = volume.get("persistentVolumeClaim"), volume.get("configMap")
            outside = {"twolane-checkpoint", "kernels", "our-policy"}
            assert (
                not claim or ("PersistentVolumeClaim", claim["claimName"]) in by_name or claim["claimName"] in outside
            )
            assert not policy or ("ConfigMap", policy["name"]) in by_name or policy["name"] in outside


@pytest.mark.parametrize("values", VALUES)
def test_pods_are_confined_and_have_limits(values: str) -> None:
    for _, spec in pods(values):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        for part in (*spec["containers"], *spec.get("initContainers", ())):
            assert part["securityContext"]["readOnlyRootFilesystem"] is True
            assert part["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in part["resources"]["limits"]
            assert ":" in part["image"]
            assert not part["image"].endswith(":latest")
            mounted = {mount["name"] for mount in part.get("volumeMounts", ())}
            assert mounted <= {volume["name"] for volume in spec.get("volumes", ())}


@pytest.mark.parametrize("values", VALUES)
def test_every_setting_is_one_that_the_process_knows(values: str) -> None:
    known = {PREFIX + name.upper() for name in Settings.__dataclass_fields__}
    known |= {WORKER_PREFIX + name.upper() for name in WorkerSettings.__dataclass_fields__}
    for _, spec in pods(values):
        for part in spec["containers"]:
            assert {name for name in variables(part) if name.startswith("TWOLANE_")} <= known | OF_TWOLANE_ADMIN


@pytest.mark.parametrize("values", [each for each in VALUES if each != "pool"])
def test_the_default_policy_loads_with_the_variables_of_the_pod_and_its_deadlines_are_shorter_than_the_drain(
    values: str,
) -> None:
    text = find(values, "ConfigMap", "-policy")["data"]["policy.yaml"]
    given = {name: value for name, value in variables(container(values, "gateway")).items() if isinstance(value, str)}
    policy = parse(text, ENVIRONMENT | given)
    hosts = {one["metadata"]["name"] for one in templated(values) if one["kind"] == "Service"} | {"q", "vllm.vllm"}
    assert {endpoint.url.split("//")[1].split(":")[0].split("/")[0] for endpoint in policy.endpoints} <= hosts
    routes = yaml.safe_load(text)["routes"]
    drains = {"gateway": "TWOLANE_DRAIN_S", "worker": "TWOLANE_WORKER_DRAIN_S"}
    for manifest, spec in pods(values):
        part = manifest["metadata"]["labels"]["app.kubernetes.io/component"]
        if part in drains:
            asked = [route["deadline_ms"] for route in routes if part == "gateway" or route["use"] != "quality"]
            drain_s = float(variables(container(values, part))[drains[part]])
            before_s = float(container(values, part)["lifecycle"]["preStop"]["exec"]["command"][1])
            assert drain_s > max(asked) / 1000
            assert spec["terminationGracePeriodSeconds"] > before_s + drain_s


@pytest.mark.parametrize(
    ("values", "overlay", "name"),
    [("cpu", "cpu-demo", "gateway"), ("cpu", "cpu-demo", "worker"), ("gpu", "gpu", "worker")],
)
def test_a_container_is_the_one_of_the_overlay(values: str, overlay: str, name: str) -> None:
    """The chart and the overlays are two packagings of one deployment."""
    (deployed,) = [one for one in built(overlay) if one["kind"] == "Deployment" and one["metadata"]["name"] == name]
    (theirs,) = deployed["spec"]["template"]["spec"]["containers"]
    ours = container(values, name)
    for key in (
        "startupProbe",
        "readinessProbe",
        "livenessProbe",
        "lifecycle",
        "securityContext",
        "resources",
        "ports",
    ):
        assert ours[key] == theirs[key]
    assert {mount["mountPath"] for mount in ours["volumeMounts"]} == {m["mountPath"] for m in theirs["volumeMounts"]}
    of_releases = {"WORKER_URL", "TWOLANE_REDIS_URL", "TWOLANE_WORKER_CHECKPOINT"}
    kept = {key: value for key, value in variables(theirs).items() if key not in of_releases}
    assert {key: value for key, value in variables(ours).items() if key not in of_releases} == kept


def test_a_digest_takes_the_place_of_the_tag() -> None:
    assert container("gpu", "worker")["image"] == f"twolane-worker@sha256:{64 * '0'}"
    assert container("gpu", "gateway")["image"].startswith("twolane-gateway:")


def test_the_gateway_that_calls_providers_is_a_variant_of_the_same_version() -> None:
    def image(*more: str) -> str:
        rendered = templated("cpu", *(option for each in more for option in ("--set", each)))
        (found,) = [
            one for one in rendered if one["kind"] == "Deployment" and one["metadata"]["name"].endswith("-gateway")
        ]
        name = found["spec"]["template"]["spec"]["containers"][0]["image"]
        assert isinstance(name, str)
        return name

    assert image("gateway.providers=true") == f"twolane-gateway:{__version__}-providers"
    assert image("gateway.providers=true", "gateway.image.tag=mine") == "twolane-gateway:mine"
    assert image() == f"twolane-gateway:{__version__}"


def test_another_redis_drops_the_digest_of_the_default_one() -> None:
    (redis,) = [
        one
        for one in templated("cpu", "--set", "redis.image.tag=8.2-alpine")
        if one["kind"] == "Deployment" and one["metadata"]["name"].endswith("-redis")
    ]
    assert redis["spec"]["template"]["spec"]["containers"][0]["image"] == "docker.io/library/redis:8.2-alpine"


@pytest.mark.parametrize("values", VALUES)
def test_a_gateway_says_which_pod_it_is(values: str) -> None:
    """And writes every decision to its log."""
    found = variables(container(values, "gateway"))
    assert found["TWOLANE_REPLICA_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert found["TWOLANE_DECISION_LOG"] == "/dev/stdout"


def test_a_fetched_checkpoint_is_the_one_that_the_worker_waits_for_and_loads() -> None:
    job, claim = find("gpu", "Job"), find("gpu", "PersistentVolumeClaim")
    (fetch,) = job["spec"]["template"]["spec"]["containers"]
    folder = variables(container("gpu", "worker"))["TWOLANE_WORKER_CHECKPOINT"]
    assert f"--out {folder} " in fetch["command"][-1]
    assert fetch["command"][-1].endswith(f"touch {folder}/.complete")
    (_, spec), *_ = [(one, spec) for one, spec in pods("gpu") if "initContainers" in spec]
    assert f"[ -f {folder}/.complete ]" in spec["initContainers"][0]["command"][-1]
    claims = [
        volume["persistentVolumeClaim"]["claimName"] for volume in spec["volumes"] if volume["name"] == "checkpoint"
    ]
    assert claims == [claim["metadata"]["name"]]
    assert variables(fetch)["HF_HUB_OFFLINE"] == "0"


def test_another_revision_is_another_job_and_another_folder() -> None:
    other = templated("gpu", "--set", "worker.weights.fetch.revision=v2")
    (job,) = [one for one in other if one["kind"] == "Job"]
    assert job["metadata"]["name"] != find("gpu", "Job")["metadata"]["name"]


def test_an_image_volume_is_used_only_on_request() -> None:
    """It needs a cluster of Kubernetes 1.35, or a feature gate."""
    uses = {
        values for values in VALUES for _, spec in pods(values) if any("image" in v for v in spec.get("volumes", ()))
    }
    assert uses == {"pool"}


def test_alerts_link_to_the_configured_runbooks() -> None:
    groups = find("gpu", "PrometheusRule")["spec"]["groups"]
    shipped = [group["name"] for file in RULES for group in yaml.safe_load(file.read_text())["groups"]]
    assert sorted(group["name"] for group in groups) == sorted(shipped)
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert alerts
    for alert in alerts:
        assert alert["annotations"]["runbook_url"] == f"https://wiki.example.com/runbooks#{alert['alert'].lower()}"
        assert alert["annotations"]["dashboard_url"].startswith("https://grafana.example.com/d/twolane-")


def test_without_grafana_alerts_have_no_link_to_it() -> None:
    rendered = templated("gpu", "--set", "monitoring.grafanaUrl=")
    (rule,) = [one for one in rendered if one["kind"] == "PrometheusRule"]
    alerts = [each for group in rule["spec"]["groups"] for each in group["rules"] if "alert" in each]
    assert alerts
    assert not [alert for alert in alerts if "dashboard_url" in alert["annotations"]]


def test_monitors_rules_and_dashboards_have_the_labels_that_select_them() -> None:
    for kind in ("ServiceMonitor", "PrometheusRule"):
        found = [one for one in templated("gpu") if one["kind"] == kind]
        assert found
        assert all(one["metadata"]["labels"]["release"] == "kube-prometheus-stack" for one in found)
    dashboards = find("gpu", "ConfigMap", "-dashboards")
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    for name, text in dashboards["data"].items():
        assert text == (ROOT / "deploy/grafana/dashboards" / name).read_text()
    assert set(dashboards["data"]) == {file.name for file in (ROOT / "deploy/grafana/dashboards").glob("*.json")}


def test_a_pod_that_a_load_balancer_publishes_keeps_its_admin_port_to_itself() -> None:
    public = [
        one for one in templated("engine") if one["kind"] == "Service" and one["spec"].get("type") == "LoadBalancer"
    ]
    assert [port["targetPort"] for one in public for port in one["spec"]["ports"]] == ["http"]


def test_no_secret_is_in_the_manifests() -> None:
    for values in VALUES:
        assert not [one for one in templated(values) if one["kind"] == "Secret"]


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        ("cpu", ("gateway.replica=2",), "replica"),
        ("cpu", ("worker.device=tpu",), "/worker/device"),
        ("cpu", ("redis.url=localhost",), "/redis/url"),
        ("cpu", ("worker.weights.claim=other",), "exactly one of"),
        ("engine", ("engine.url=",), "engine.url"),
        ("cpu", ("policy.content=a", "policy.existingConfigMap=b"), "/policy"),
        ("cpu", ("ingress.enabled=true",), "ingress.host"),
        ("pool", ("inferencePool.endpointPicker.name=",), "inferencePool.endpointPicker.name"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(values: str, options: tuple[str, ...], said: str) -> None:
    done = template(values, *(word for option in options for word in ("--set", option)))
    assert done.returncode != 0
    assert said in done.stderr


def test_every_value_has_a_description() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    assert list(walk(defaults, schema)) == []


def walk(values: Any, schema: dict[str, Any], path: str = "") -> Any:
    """Keys of the defaults without a description, and objects that accept unknown keys."""
    for key, value in values.items():
        described = schema.get("properties", {}).get(key, {})
        if "description" not in described:
            yield f"{path}.{key}"
        if isinstance(value, dict) and "properties" in described:
            if described.get("additionalProperties") is not False:
                yield f"{path}.{key}: unknown keys"
            yield from walk(value, described, f"{path}.{key}")


def test_shared_files_are_links_to_their_source() -> None:
    for file in (CHART / "files").iterdir():
        assert file.is_symlink()
        assert Path(file).resolve().exists()
