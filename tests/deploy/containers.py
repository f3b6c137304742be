"""Images and containers for tests: built from the recipes, with this machine's own package index.

Everything has the tag `twolane-test` and is removed by `cleared`.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASE = "localhost/twolane-test/base"
# Options for environments that can neither raise limits nor use systemd, such as most continuous integration.
CONFIGURATION = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class Containers:
    """buildah and podman with the tests' own configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "containers.conf").write_text(CONFIGURATION)
        self._environment = os.environ | {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "BUILDAH_ISOLATION": "chroot",
        }

    def run(self, *line: str | Path, seconds: float = 600, check: bool = True) -> str:
        """Run a command and return its output; a failure reports the complete output."""
        done = subprocess.run(
            line, env=self._environment, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert not check or done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def base(self) -> str:
        """A small Debian with Python, built locally without an image registry."""
        tar = self.folder / "base.tar"
        packages = "--include=python3,python3-venv,ca-certificates"
        self.run("mmdebstrap", "--variant=minbase", packages, "bookworm", tar, seconds=1200)
        return self._build_text(BASE, f"FROM scratch\nADD {tar.name} /\n")

    def redis(self) -> str:
        """Redis from the distribution, which replaces the image that the compose file names."""
        text = f'FROM {BASE}\nRUN apt-get update && apt-get install -y redis-server\nUSER 999\nCMD ["redis-server"]\n'
        return self._build_text("localhost/twolane-test/redis", text)

    def build(self, recipe: str, *, variant: str = "", **arguments: str) -> str:
        """An image built from a recipe in deploy/images and the base image; a variant has further arguments."""
        tag = f"localhost/twolane-test/{recipe}{variant and f'-{variant}'}"
        file = f"deploy/images/{recipe}.Containerfile"
        given = [option for each in arguments.items() for option in ("--build-arg", "=".join(each))]
        line = ["--build-arg", f"BASE_IMAGE={BASE}", *given, "--file", file, "--tag", tag, "."]
        self.run("buildah", "bud", "--format", "docker", *_packages(), *line, seconds=1200)
        return tag

    def size(self, tag: str) -> int:
        """The size of an image in bytes."""
        return int(self.run("podman", "image", "inspect", tag, "--format", "{{.Size}}"))

    @contextlib.contextmanager
    def running(self, tag: str, *command: str, options: tuple[str, ...] = ()) -> Iterator[str]:
        """A container that is removed at the end. It uses the host's network, because bridge networks require more
        privileges."""
        line = ("podman", "run", "--detach", "--network", "host", "--read-only", "--cap-drop", "ALL")
        container = self.run(*line, *options, tag, *command).splitlines()[-1]
        try:
            yield container
        finally:
            self.run("podman", "rm", "--force", "--time", "5", container, check=False)

    def until_healthy(self, container: str, *, seconds: float = 600) -> None:
        """Wait until the image's own health check succeeds."""
        ends = time.monotonic() + seconds
        line = ["podman", "healthcheck", "run", container]
        while subprocess.run(line, env=self._environment, capture_output=True, timeout=120, check=False).returncode:
            assert time.monotonic() < ends, self.run("podman", "logs", container, check=False)
            time.sleep(0.5)

    def clear(self) -> None:
        """Remove every image of the tests."""
        names = self.run("podman", "images", "--format", "{{.Repository}}:{{.Tag}}", check=False).splitlines()
        for name in names:
            if "/twolane-test/" in name:
                self.run("podman", "rmi", "--force", name, check=False)
            elif "/podman-pause:" in name:  # podman creates it for pods; it stays if others use it
                self.run("podman", "rmi", name, check=False)

    def _build_text(self, tag: str, text: str) -> str:
        (self.folder / "Containerfile").write_text(text)
        self.run("buildah", "bud", "--format", "docker", *_packages(), "--tag", tag, self.folder, seconds=1200)
        return tag


def can_run() -> bool:
    """Whether this machine has the required tools."""
    return os.getuid() == 0 and all(shutil.which(name) for name in ("podman", "buildah", "mmdebstrap", "runc"))


def _packages() -> list[str]:
    """pip's access to packages on this machine: its configuration files, and the folders that they name."""
    told = subprocess.run(
        [sys.executable, "-m", "pip", "config", "debug"], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    files = [Path(found) for found in re.findall(r"^\s+(/\S+), exists: True", told, re.MULTILINE)]
    folders = [Path(found) for found in re.findall(r"(?:file://|: )(/[\w./-]+)", told)]
    # An index of files names them by `../files`.
    named = set(files) | {one.parent if one.name == "simple" else one for one in folders if one.exists()}
    return [f"--volume={path}:{path}:ro" for path in sorted(named)] + ["--env=PIP_DISABLE_PIP_VERSION_CHECK=1"]
