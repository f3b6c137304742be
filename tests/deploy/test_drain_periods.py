"""Shipped drain periods exceed the shipped deadlines, and what stops the processes waits longer than they drain."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffusion_worker.app import CLOSING_S as WORKER_CLOSING_S
from diffusion_worker.settings import Settings as WorkerSettings
from gateway.app import CLOSING_S
from gateway.server.supervisor import GRACE_S
from gateway.settings import Settings

ROOT = Path(__file__).parents[2]
POLICIES = sorted((ROOT / "policies").glob("*.yaml"))
DRAIN_S = {"gateway": Settings().drain_s, "worker": WorkerSettings(checkpoint="x").drain_s}
CLOSING = {"gateway": CLOSING_S, "worker": float(WORKER_CLOSING_S)}


def longest_deadline_s(policy: Path) -> float:
    routes = yaml.safe_load(policy.read_text())["routes"]
    return max(float(route["deadline_ms"]) / 1000 for route in routes)


@pytest.mark.parametrize("program", DRAIN_S)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda path: path.name)
def test_the_default_drain_period_exceeds_the_deadlines_of_every_shipped_policy(policy: Path, program: str) -> None:
    assert DRAIN_S[program] > longest_deadline_s(policy)


def test_the_supervisor_waits_longer_than_its_processes_drain() -> None:
    assert GRACE_S > CLOSING_S


@pytest.mark.parametrize(
    ("service", "program"), [("gateway", "gateway"), ("worker", "worker"), ("worker-gpu", "worker")]
)
def test_compose_waits_longer_than_a_service_drains(service: str, program: str) -> None:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"][service]
    grace = re.fullmatch(r"(\d+)s", found["stop_grace_period"])
    environment = found.get("environment", {})
    assert grace is not None
    drain_s = float(environment.get("TWOLANE_DRAIN_S", environment.get("TWOLANE_WORKER_DRAIN_S", DRAIN_S[program])))
    assert float(grace[1]) > drain_s + CLOSING[program]


@pytest.mark.parametrize(
    ("program", "variable"), [("gateway", "TWOLANE_DRAIN_S"), ("worker", "TWOLANE_WORKER_DRAIN_S")]
)
def test_kubernetes_waits_longer_than_a_pod_drains_and_drains_longer_than_its_deadlines(
    program: str, variable: str
) -> None:
    manifests = list(yaml.safe_load_all((ROOT / f"deploy/kubernetes/base/{program}.yaml").read_text()))
    (deployment,) = [manifest for manifest in manifests if manifest["kind"] == "Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    drain_s = float({one["name"]: one.get("value") for one in container["env"]}[variable])
    before_s = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] >= before_s + drain_s + CLOSING[program]
    routes = yaml.safe_load((ROOT / "policies" / "default.yaml").read_text())["routes"]
    asked = [route["deadline_ms"] for route in routes if program == "gateway" or route["use"] in ("fast", "careful")]
    assert drain_s > max(asked) / 1000
