"""The manifests of the small overlay, run by podman on this machine's network.

Everything that a cluster would provide is replaced: images, weights, service names, ports (pods share the host's here).
Podman 4.3 cannot read one secret both as variables and as files, and has no timers for probes: keys are mounted from a
folder, and tests call the probes.
"""

import base64
import copy
import json
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.containers import Containers
from tests.deploy.rendered import Manifest, built

PARTS = ("redis", "worker", "gateway")
SECRET = "twolane-keys"
POLICY = "twolane-policy"  # a ConfigMap, which podman converts to a volume
_OF_CLUSTERS = ("ports", "startupProbe", "readinessProbe", "livenessProbe")


class Played:
    """Redis, a worker and a gateway as in the overlay, on these ports."""

    def __init__(self, containers: Containers, folder: Path, ports: dict[str, str]) -> None:
        self._containers, self._folder, self._ports = containers, folder, ports
        self._file = folder / "played.yaml"

    def play(self, secrets: Path, checkpoint: Path) -> None:
        """Start all parts."""
        self._write_secret((secrets / "gateway.env").read_text().strip().partition("=")[2], secrets)
        folders = {"checkpoint": checkpoint, "keys": secrets}
        self._file.write_text(
            yaml.safe_dump_all([self._policy(), *(self._deployment(part, folders) for part in PARTS)])
        )
        self._containers.run("podman", "play", "kube", "--network", "host", self._file)

    def end(self) -> None:
        """Remove all parts, whether or not they were started."""
        for part in PARTS:
            self._containers.run("podman", "pod", "rm", "--force", f"{part}-pod-0", check=False)
        self._containers.run("podman", "secret", "rm", SECRET, check=False)
        self._containers.run("podman", "volume", "rm", POLICY, check=False)

    def container(self, part: str) -> Manifest:
        """podman's description of a part's container."""
        told: Manifest = json.loads(self._containers.run("podman", "inspect", f"{part}-pod-0-{part}"))[0]
        return told

    def execute(self, part: str, *line: str) -> str:
        """The output of a command in a part's container."""
        return self._containers.run("podman", "exec", f"{part}-pod-0-{part}", *line)

    def logs(self) -> str:
        """The logs of all parts."""
        return "\n".join(self._containers.run("podman", "logs", f"{part}-pod-0-{part}", check=False) for part in PARTS)

    def _write_secret(self, worker_key: str, secrets: Path) -> None:
        told = {
            "admin-key": (secrets / "admin-key").read_text(),
            "worker-api-key": worker_key,
            "quality-url": f"http://127.0.0.1:{self._ports['quality']}",
            "quality-model": "none",
            "quality-api-key": "",
        }
        file = self._folder / "secret.json"
        file.write_text(json.dumps({key: base64.b64encode(text.encode()).decode() for key, text in told.items()}))
        self._containers.run("podman", "secret", "create", SECRET, file)

    def _policy(self) -> Manifest:
        policy = _find("ConfigMap", POLICY)
        text = policy["data"]["policy.yaml"]
        policy["data"]["policy.yaml"] = text.replace("//worker:8001", f"//localhost:{self._ports['worker']}")
        return policy

    def _deployment(self, part: str, folders: dict[str, Path]) -> Manifest:
        manifest = _find("Deployment", part)
        manifest["spec"]["replicas"] = 1
        spec = manifest["spec"]["template"]["spec"]
        spec["hostNetwork"] = True
        (only,) = spec["containers"]
        kept = {key: value for key, value in only.items() if key not in _OF_CLUSTERS}
        spec["containers"] = [kept | {"image": f"localhost/twolane-test/{part}", "imagePullPolicy": "Never"}]
        self._told(part, spec["containers"][0])
        for volume in spec.get("volumes", ()):
            if volume["name"] in folders:
                name = volume["name"]
                volume.clear()
                volume |= {"name": name, "hostPath": {"path": str(folders[name]), "type": "Directory"}}
        return manifest

    def _told(self, part: str, container: dict[str, Any]) -> None:
        """Ports that are free here, in place of a pod's own."""
        told = {
            "gateway": {
                "TWOLANE_PORT": self._ports["gateway"],
                "TWOLANE_ADMIN_PORT": self._ports["admin"],
                "TWOLANE_REDIS_URL": f"redis://localhost:{self._ports['redis']}/0",
            },
            "worker": {
                "TWOLANE_WORKER_PORT": self._ports["worker"],
                "TWOLANE_WORKER_ADMIN_PORT": self._ports["worker-admin"],
                "TWOLANE_WORKER_THREADS": "1",
            },
        }.get(part, {})
        if part == "redis":
            container["args"] = [*container["args"], "--port", self._ports["redis"]]
        kept = [one for one in container.get("env", ()) if one["name"] not in told]
        container["env"] = kept + [{"name": name, "value": value} for name, value in told.items()]


def _find(kind: str, name: str) -> Manifest:
    (found,) = [one for one in built("cpu-demo") if one["kind"] == kind and one["metadata"]["name"] == name]
    return copy.deepcopy(found)
