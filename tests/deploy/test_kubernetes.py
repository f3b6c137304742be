"""The manifests, as kubectl builds them: strictly valid, consistent with each other and with the code they deploy."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from deploy.kubernetes.__main__ import OUT, render
from diffusion_worker.settings import PREFIX as WORKER_PREFIX
from diffusion_worker.settings import Settings as WorkerSettings
from gateway.policy_files.load import parse
from gateway.settings import PREFIX, Settings
from tests.deploy.known import exported
from tests.deploy.rendered import Manifest, built
from tests.deploy.schema_check import NEWEST, check

ROOT = Path(__file__).parents[2]
OVERLAYS = ("cpu-demo", "gpu", "gateway-only", "inference-pool")
POOL = (("InferencePool", "worker"), ("Deployment", "endpoint-picker"))
ENVIRONMENT = {"QUALITY_URL": "http://q", "QUALITY_MODEL": "m", "VLLM_URL": "http://v"}


def find(overlay: str, kind: str, name: str) -> Manifest:
    (found,) = [one for one in built(overlay) if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def container(overlay: str, name: str) -> Manifest:
    (only,) = find(overlay, "Deployment", name)["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


@pytest.mark.parametrize("minor", NEWEST)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_manifest_is_valid_to_the_letter(overlay: str, minor: str) -> None:
    for manifest in built(overlay):
        check(manifest, minor)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_policy_of_every_overlay_loads_and_is_mounted_so_that_it_can_change(overlay: str) -> None:
    policy = find(overlay, "ConfigMap", "twolane-policy")["data"]["policy.yaml"]
    assert parse(policy, ENVIRONMENT).endpoints
    mounts = {mount["name"]: mount for mount in container(overlay, "gateway")["volumeMounts"]}
    assert "subPath" not in mounts["policy"]
    (path,) = [one["value"] for one in container(overlay, "gateway")["env"] if one["name"] == "TWOLANE_POLICY"]
    assert path == f"{mounts['policy']['mountPath']}/policy.yaml"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_setting_is_one_that_the_process_knows(overlay: str) -> None:
    known = {PREFIX + name.upper() for name in Settings.__dataclass_fields__}
    known |= {WORKER_PREFIX + name.upper() for name in WorkerSettings.__dataclass_fields__} | {"TWOLANE_ADMIN_KEY"}
    for manifest in built(overlay):
        if manifest["kind"] == "Deployment":
            for part in manifest["spec"]["template"]["spec"]["containers"]:
                named = {one["name"] for one in part.get("env", ()) if one["name"].startswith("TWOLANE_")}
                assert named <= known


@pytest.mark.parametrize(("overlay", "part"), [(overlay, "gateway") for overlay in OVERLAYS] + [("gpu", "worker")])
def test_a_pod_that_ends_has_time_for_what_it_began(overlay: str, part: str) -> None:
    spec = find(overlay, "Deployment", part)["spec"]["template"]["spec"]
    environment = {one["name"]: one.get("value") for one in container(overlay, part)["env"]}
    drain_s = float(environment[f"{WORKER_PREFIX if part == 'worker' else PREFIX}DRAIN_S"] or 0)
    before_s = float(container(overlay, part)["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] >= before_s + drain_s
    routes = yaml.safe_load(find(overlay, "ConfigMap", "twolane-policy")["data"]["policy.yaml"])["routes"]
    asked = [route["deadline_ms"] for route in routes if part == "gateway" or route["use"] in ("fast", "careful")]
    assert drain_s > max(asked) / 1000


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_confined_and_probed(overlay: str) -> None:
    for manifest in built(overlay):
        if manifest["kind"] != "Deployment":
            continue
        spec = manifest["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        if manifest["metadata"]["name"] != "endpoint-picker":  # it reads pods and the pool
            assert spec["automountServiceAccountToken"] is False
        for part in spec["containers"]:
            assert part["securityContext"]["readOnlyRootFilesystem"] is True
            assert part["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {"readinessProbe", "livenessProbe"} <= part.keys()
            assert "memory" in part["resources"]["limits"]
            assert not part["image"].endswith(":latest")
    worker = [one for one in built(overlay) if one["kind"] == "Deployment" and one["metadata"]["name"] == "worker"]
    for manifest in worker:  # weights take long, and liveness must not wait for them
        (part,) = manifest["spec"]["template"]["spec"]["containers"]
        assert part["startupProbe"]["periodSeconds"] * part["startupProbe"]["failureThreshold"] >= 1800
        assert (part["readinessProbe"]["httpGet"]["path"], part["livenessProbe"]["httpGet"]["path"]) == (
            "/health", "/live",
        )  # fmt: skip


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_service_sets_variables_of_the_programs(overlay: str) -> None:
    """A service named `twolane` would set TWOLANE_PORT=tcp://… in every pod of its namespace."""
    for manifest in built(overlay):
        if manifest["kind"] == "Deployment":
            assert manifest["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_the_gpu_worker_has_memory_for_a_stream_of_weights_and_keeps_compiled_kernels() -> None:
    """At most 6 GiB of weights are in host memory; kernels are on a volume that the user of the image can write to."""
    part, spec = container("gpu", "worker"), find("gpu", "Deployment", "worker")["spec"]["template"]["spec"]
    requested, limit = (int(part["resources"][kind]["memory"].removesuffix("Gi")) for kind in ("requests", "limits"))
    assert 6 + 4 <= requested <= limit <= 16, "with 4 GiB for the process"
    environment = {one["name"]: one.get("value") for one in part["env"]}
    (mount,) = [one for one in part["volumeMounts"] if one["name"] == "kernels"]
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert environment[name].startswith(f"{mount['mountPath']}/")
    assert not mount.get("readOnly")
    assert spec["securityContext"]["fsGroup"] == 10001
    assert environment["TORCHINDUCTOR_COMPILE_THREADS"] == part["resources"]["requests"]["cpu"], "each takes memory"


def test_compiled_kernels_can_be_kept_on_a_claim_for_new_pods(tmp_path: Path) -> None:
    """An overlay of the user's own, with the component."""
    kubernetes = Path(os.path.relpath(ROOT / "deploy" / "kubernetes", tmp_path.resolve()))
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [str(kubernetes / "overlays" / "gpu")],
        "components": [str(kubernetes / "components" / "kernel-cache")],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(content))
    overlay = str(tmp_path.resolve())
    for manifest in built(overlay):
        check(manifest, NEWEST[-1])
    claim = find(overlay, "PersistentVolumeClaim", "twolane-kernels")
    volumes = find(overlay, "Deployment", "worker")["spec"]["template"]["spec"]["volumes"]
    (kernels,) = [one for one in volumes if one["name"] == "kernels"]
    assert kernels == {"name": "kernels", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}
    assert claim["metadata"]["namespace"] == find(overlay, "Deployment", "worker")["metadata"]["namespace"]


def test_the_gateway_that_calls_providers_is_a_component(tmp_path: Path) -> None:
    """An overlay of the user's own, with the component."""
    kubernetes = Path(os.path.relpath(ROOT / "deploy" / "kubernetes", tmp_path.resolve()))
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [str(kubernetes / "overlays" / "gateway-only")],
        "components": [str(kubernetes / "components" / "providers")],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(content))
    plain = container("gateway-only", "gateway")["image"]
    assert container(str(tmp_path.resolve()), "gateway")["image"] == f"{plain}-providers"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_gateway_says_which_pod_it_is_and_logs_every_decision(overlay: str) -> None:
    environment = {one["name"]: one for one in container(overlay, "gateway")["env"]}
    assert environment["TWOLANE_REPLICA_NAME"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert environment["TWOLANE_DECISION_LOG"]["value"] == "/dev/stdout"
    assert environment["TWOLANE_LOG"]["value"] == "json"


def test_an_endpoint_picker_finds_its_pool_its_workers_and_their_queue() -> None:
    pool, picker = (find("inference-pool", kind, name) for kind, name in POOL)
    reference = pool["spec"]["endpointPickerRef"]
    service = find("inference-pool", "Service", reference["name"])
    assert reference["port"]["number"] in [port["port"] for port in service["spec"]["ports"]]
    assert service["spec"]["selector"].items() <= picker["spec"]["template"]["metadata"]["labels"].items()
    (part,) = picker["spec"]["template"]["spec"]["containers"]
    assert f"--pool-name={pool['metadata']['name']}" in part["args"]
    workers = find("inference-pool", "Deployment", "worker")["spec"]["template"]
    assert pool["spec"]["selector"]["matchLabels"].items() <= workers["metadata"]["labels"].items()
    (worker,) = workers["spec"]["containers"]
    assert [port["number"] for port in pool["spec"]["targetPorts"]] == [p["containerPort"] for p in worker["ports"]]
    assert {"name": "TWOLANE_WORKER_OPEN_METRICS", "value": "true"} in worker["env"]
    assert ["list" in rule["verbs"] for rule in find("inference-pool", "Role", "endpoint-picker")["rules"]] == 3 * [
        True
    ]


def test_no_secret_is_in_the_manifests() -> None:
    for overlay in OVERLAYS:
        assert not [one for one in built(overlay) if one["kind"] == "Secret"]
        assert " sha256:" not in json.dumps([one for one in built(overlay) if one["kind"] != "ConfigMap"])


def test_before_other_engines_there_is_no_worker() -> None:
    names = {(one["kind"], one["metadata"]["name"]) for one in built("gateway-only")}
    assert not [name for _, name in names if name == "worker"]
    assert ("Deployment", "gateway") in names


def test_the_autoscaler_asks_for_metrics_that_there_are() -> None:
    for trigger in find("gpu", "ScaledObject", "worker")["spec"]["triggers"]:
        asked = set(re.findall(r"twolane_\w+", trigger["metadata"]["query"]))
        assert asked
        assert asked <= exported()
        assert float(trigger["metadata"]["threshold"]) > 0


def test_jobs_are_named_alike_wherever_they_are_scraped() -> None:
    jobs = set()
    for file in (ROOT / "deploy/prometheus/prometheus.yml", ROOT / "deploy/compose/prometheus.yml"):
        scraped = yaml.safe_load(file.read_text())["scrape_configs"]
        jobs.add(tuple(sorted(job["job_name"] for job in scraped)))
    monitors = [one for one in built("gpu") if one["kind"] == "ServiceMonitor"]
    jobs.add(tuple(sorted(one["spec"]["endpoints"][0]["relabelings"][0]["replacement"] for one in monitors)))
    assert len(jobs) == 1


def test_the_rules_are_those_of_the_prometheus_beside() -> None:
    assert OUT.read_text() == render(), "run `python -m deploy.kubernetes`"


def test_every_dashboard_is_in_the_cluster_too() -> None:
    carried = find("gpu", "ConfigMap", "twolane-dashboards")["data"].keys()
    assert set(carried) == {file.name for file in (ROOT / "deploy/grafana/dashboards").glob("*.json")}
