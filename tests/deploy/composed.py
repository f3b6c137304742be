"""docker-compose.yml run by podman-compose, unchanged except for what a test cannot use: bridge networks and images of
registries.

Every service keeps its settings, mounts, secrets, limits and confinement; it uses the host's network, on free ports.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.containers import ROOT, Containers

PARTS = ("redis", "worker", "gateway")
SECRETS = ("gateway-keys", "worker-keys", "admin-key")
_NOT_HERE = ("ports", "networks", "profiles", "build")


class Composed:
    """`up` starts Redis, worker and gateway; `down` removes them."""

    def __init__(self, containers: Containers, folder: Path, ports: dict[str, str]) -> None:
        self._containers, self._folder, self._ports = containers, folder, ports
        self._file = folder / "docker-compose.yml"

    def up(self, images: dict[str, str], secrets: Path, checkpoint: Path, policies: Path) -> None:
        """Start them with these images and folders."""
        read = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
        read["services"] = {part: self._service(read["services"][part], images[part]) for part in PARTS}
        services = read["services"]
        services["redis"]["command"] += ["--port", self._ports["redis"]]
        services["worker"]["environment"]["TWOLANE_WORKER_PORT"] = self._ports["worker"]
        services["worker"]["environment"]["TWOLANE_WORKER_ADMIN_PORT"] = self._ports["worker-admin"]
        services["worker"]["volumes"] = [f"{checkpoint}:/checkpoint:ro"]
        services["gateway"]["volumes"] = [f"{policies}:/etc/twolane/policies:ro"]
        services["gateway"]["env_file"] = [str(secrets / "gateway.env")]
        services["gateway"]["environment"] |= {
            "WORKER_URL": f"http://127.0.0.1:{self._ports['worker']}",
            "TWOLANE_REDIS_URL": f"redis://127.0.0.1:{self._ports['redis']}/0",
            "TWOLANE_PORT": self._ports["gateway"],
            "TWOLANE_ADMIN_PORT": self._ports["admin"],
        }
        read["secrets"] = {name: {"file": str(secrets / name)} for name in SECRETS}
        read.pop("volumes")
        self._file.write_text(yaml.safe_dump(read))
        self._compose("up", "--detach")

    def down(self) -> None:
        """Remove all containers that were started."""
        if self._file.exists():
            self._compose("down", "--volumes", check=False)

    def logs(self) -> str:
        """The logs of the containers."""
        return "".join(self._containers.run("podman", "logs", f"twolane_{p}_1", check=False) for p in PARTS)

    def execute(self, part: str, *line: str) -> str:
        """The output of a command in a part's container."""
        return self._containers.run("podman", "exec", f"twolane_{part}_1", *line)

    def container(self, part: str) -> dict[str, Any]:
        """podman's description of a part's container."""
        told = yaml.safe_load(self._containers.run("podman", "inspect", f"twolane_{part}_1"))
        found: dict[str, Any] = told[0]
        return found

    def _service(self, service: dict[str, Any], image: str) -> dict[str, Any]:
        kept = {key: value for key, value in service.items() if key not in _NOT_HERE}
        return kept | {"image": image, "network_mode": "host", "environment": dict(service.get("environment", {}))}

    def _compose(self, *line: str, check: bool = True) -> None:
        tool = Path(sys.executable).parent / "podman-compose"
        self._containers.run(
            tool, "--in-pod", "0", "--project-name", "twolane", "--file", self._file, *line, seconds=180, check=check
        )
