"""The images, built from their recipes and run as in production: `make test-images`."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest

from deploy.compose.make_secrets import main as make_secrets
from tests.deploy.composed import Composed
from tests.deploy.containers import BASE, ROOT, Containers, can_run
from tests.deploy.played import PARTS, Played
from twolane.process.flags import free_port

pytestmark = [pytest.mark.images, pytest.mark.slow, pytest.mark.timeout(1800)]
MEBIBYTE = 2**20
ORDER = {
    "model": "auto",
    "seed": 1,
    "max_tokens": 96,
    "metadata": {"task": "extraction"},
    "messages": [{"role": "user", "content": "Extract the order as JSON: hi, i need 3 red lamp for anna on monday"}],
}


LITELLM = """
version: 1
targets:
  provider: {kind: litellm, url: "http://127.0.0.1:PORT/v1", model: openai/small, engine: openai, key_env: PROVIDER_KEY,
             location: external}
routes:
  - {name: default, use: provider}
"""


class Provider:
    """A provider with OpenAI's API on loopback."""

    def __init__(self) -> None:
        keys: set[str | None] = set()
        choice = {"index": 0, "message": {"role": "assistant", "content": "of the provider"}, "finish_reason": "stop"}
        body = json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                keys.add(self.headers["authorization"])
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                """Not to the test's output."""

        self.keys = keys
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]

    def __enter__(self) -> None:
        Thread(target=self._server.serve_forever, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Deployed:
    """Gateway, worker and Redis in containers, and a client with a key."""

    def __init__(self, containers: Containers, folder: Path) -> None:
        self.containers = containers
        ports = ("gateway", "admin", "worker", "worker-admin", "redis", "quality")
        self.ports = {part: str(free_port()) for part in ports}
        self.secrets, self.policies = folder / "secrets", folder / "policies"
        shutil.copytree(ROOT / "policies", self.policies)
        assert make_secrets(self.secrets) == 0
        self.checkpoint = folder / "checkpoint"
        shutil.copytree(ROOT / "checkpoints" / "twolane-tiny", self.checkpoint)
        self.secrets.chmod(0o711)
        for path in [folder, *self.policies.rglob("*"), *self.checkpoint.rglob("*"), self.policies, self.checkpoint]:
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))

    @property
    def for_gateway(self) -> tuple[str, ...]:
        worker_key = (self.secrets / "gateway.env").read_text().strip()
        named = (
            f"TWOLANE_PORT={self.ports['gateway']}",
            f"TWOLANE_ADMIN_PORT={self.ports['admin']}",
            f"TWOLANE_REDIS_URL=redis://127.0.0.1:{self.ports['redis']}/0",
            f"WORKER_URL=http://127.0.0.1:{self.ports['worker']}",
            f"QUALITY_URL=http://127.0.0.1:{self.ports['quality']}",
            worker_key,
        )
        volumes = (f"{self.secrets}:/run/secrets:ro", f"{self.policies}:/etc/twolane/policies:ro")
        health = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{self.ports['gateway']}/health', timeout=2)"
        return options(named, volumes, health)

    @property
    def for_worker(self) -> tuple[str, ...]:
        named = (f"TWOLANE_WORKER_PORT={self.ports['worker']}", "TWOLANE_WORKER_THREADS=1")
        volumes = (f"{self.secrets}:/run/secrets:ro", f"{self.checkpoint}:/checkpoint:ro")
        health = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{self.ports['worker']}/health', timeout=2)"
        return options(named, volumes, health)

    def ask(self, key: str, **more: object) -> httpx.Response:
        url = f"http://127.0.0.1:{self.ports['gateway']}/v1/chat/completions"
        headers = {"authorization": f"Bearer {key}"}
        return httpx.post(url, json=ORDER | more, headers=headers, timeout=60, trust_env=False)


def options(environment: tuple[str, ...], volumes: tuple[str, ...], health: str) -> tuple[str, ...]:
    """Start it with podman's flags. The health check is the image's own, on a free port of this machine."""
    told = [flag for name in environment for flag in ("--env", name)]
    mounted = [flag for volume in volumes for flag in ("--volume", volume)]
    return (*told, *mounted, "--health-cmd", json.dumps(["python3", "-c", health]), "--tmpfs", "/tmp")


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    if not can_run():
        pytest.skip("needs root, podman, buildah, runc and mmdebstrap: `make podman`")
    made = Containers(tmp_path_factory.mktemp("images"))
    made.clear()  # left over from a killed run
    try:
        made.base()
        yield made
    finally:
        made.clear()


@pytest.fixture(scope="module")
def gateway_image(containers: Containers) -> str:
    return containers.build("gateway")


@pytest.fixture(scope="module")
def redis_image(containers: Containers) -> str:
    return containers.redis()


@pytest.fixture(scope="module")
def worker_image(containers: Containers) -> str:
    return containers.build("worker")


def test_the_gateways_image_is_small_and_has_no_torch(containers: Containers, gateway_image: str) -> None:
    assert containers.size(gateway_image) - containers.size(BASE) < 200 * MEBIBYTE
    listing = ("run", "--rm", "--network", "none", "--entrypoint", "python3", gateway_image, "-c")
    code = "import importlib.util as u, sys; sys.exit(any(u.find_spec(n) for n in ('torch', 'transformers', 'pip')))"
    containers.run("podman", *listing, code)


def test_the_variant_for_providers_calls_targets_of_litellm_and_the_plain_image_refuses_them(
    containers: Containers, gateway_image: str, tmp_path: Path
) -> None:
    """With a read-only root file system, as user 10001, within the memory of the manifests."""
    it = Deployed(containers, tmp_path)
    key, provider = _application_key(it.secrets), Provider()
    (it.policies / "default.yaml").write_text(LITELLM.replace("PORT", str(provider.port)))
    check = ("run", "--rm", "--network", "none", "--volume", f"{it.policies}:/etc/twolane/policies:ro")
    with pytest.raises(AssertionError, match="requires the extra `providers`"):
        containers.run("podman", *check, gateway_image, "policy", "check", "/etc/twolane/policies/default.yaml")
    image = containers.build("gateway", variant="providers", PROVIDERS="litellm")
    containers.run("podman", *check, image, "policy", "check", "/etc/twolane/policies/default.yaml")
    assert containers.size(image) - containers.size(gateway_image) < 300 * MEBIBYTE
    options = (*it.for_gateway, "--env", "PROVIDER_KEY=sk-provider", "--env", "TWOLANE_REDIS_URL=", "--memory", "768m")
    with provider, containers.running(image, options=options) as gateway:
        containers.until_healthy(gateway)
        answer = _answered_by(it, key, "provider")
        assert answer.json()["choices"][0]["message"]["content"] == "of the provider"
        assert answer.headers["x-twolane-gateway"]
    assert provider.keys == {"Bearer sk-provider"}


def test_images_run_as_nobody_and_say_how_they_are(
    containers: Containers, gateway_image: str, worker_image: str
) -> None:
    for image in (gateway_image, worker_image):
        told = json.loads(containers.run("podman", "image", "inspect", image))[0]
        assert told["User"] == "10001:10001"
        assert told["Healthcheck"]["Test"][0] == "CMD"
        assert (
            containers.run("podman", "run", "--rm", "--network", "none", "--entrypoint", "id", image, "-u") == "10001"
        )


def test_a_gateway_without_keys_refuses_to_listen_to_the_world(containers: Containers, gateway_image: str) -> None:
    line = ("podman", "run", "--rm", "--network", "none", gateway_image)
    with pytest.raises(AssertionError, match="keys file /run/secrets/gateway-keys: "):
        containers.run(*line)


def test_the_manifests_of_kubernetes_run_and_answer(
    containers: Containers, redis_image: str, gateway_image: str, worker_image: str, tmp_path: Path
) -> None:
    """Started by `podman play kube`: with the manifests' confinement, mounted keys and policy, and the worker
    discovered by name."""
    it = Deployed(containers, tmp_path)
    key = _application_key(it.secrets)
    played = Played(containers, tmp_path, it.ports)
    try:
        played.play(it.secrets, it.checkpoint)
        _answers(f"http://127.0.0.1:{it.ports['worker']}/health", played)
        _answers(f"http://127.0.0.1:{it.ports['gateway']}/health", played)
        assert it.ask("wrong").status_code == 401
        answer = _answered_by(it, key, "fast")
        assert json.loads(answer.json()["choices"][0]["message"]["content"])["qty"] == 3
        assert "fast" in played.execute("gateway", "twolane", "admin", "lanes")
        assert "ready" in played.execute("worker", "twolane", "admin", "state")
        for part in PARTS:
            told = played.container(part)["HostConfig"]
            assert told["ReadonlyRootfs"] is True
            assert told["Memory"] > 0
            assert not played.container(part)["EffectiveCaps"]
    finally:
        played.end()


def test_the_compose_file_comes_up_and_answers(
    containers: Containers, redis_image: str, gateway_image: str, worker_image: str, tmp_path: Path
) -> None:
    it = Deployed(containers, tmp_path)
    key = _application_key(it.secrets)
    composed = Composed(containers, tmp_path, it.ports)
    images = {"redis": redis_image, "gateway": gateway_image, "worker": worker_image}
    try:
        composed.up(images, it.secrets, it.checkpoint, it.policies)
        _answers(f"http://127.0.0.1:{it.ports['worker']}/health", composed)
        _answers(f"http://127.0.0.1:{it.ports['gateway']}/health", composed)
        assert it.ask("wrong").status_code == 401
        _answered_by(it, key, "careful")
        assert "fast" in composed.execute("gateway", "twolane", "admin", "lanes")
        assert "ready" in composed.execute("worker", "twolane", "admin", "state")
        for part in ("gateway", "worker"):
            told = composed.container(part)["HostConfig"]
            assert told["ReadonlyRootfs"] is True
            assert told["Memory"] > 0
            assert not composed.container(part)["EffectiveCaps"]
    finally:
        composed.down()


def _answers(url: str, played: Played | Composed) -> None:
    ends_s = time.monotonic() + 300
    while time.monotonic() < ends_s:
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(played.logs())


def test_a_request_goes_through_all_of_it_and_each_leaves_in_order(
    containers: Containers, redis_image: str, gateway_image: str, worker_image: str, tmp_path: Path
) -> None:
    it = Deployed(containers, tmp_path)
    key = _application_key(it.secrets)
    redis_line = ("redis-server", "--port", it.ports["redis"], "--save", "", "--appendonly", "no")
    with (
        containers.running(redis_image, *redis_line),
        containers.running(worker_image, options=it.for_worker) as worker,
        containers.running(gateway_image, options=it.for_gateway) as gateway,
    ):
        containers.until_healthy(worker)
        containers.until_healthy(gateway)
        assert it.ask("wrong").status_code == 401
        answer = _answered_by(it, key, "careful")
        assert json.loads(answer.json()["choices"][0]["message"]["content"])["qty"] == 3
        _policy_is_followed(it, key)
        metrics = httpx.get(
            f"http://127.0.0.1:{it.ports['admin']}/metrics",
            headers={"authorization": f"Bearer {(it.secrets / 'metrics-key').read_text()}"},
            timeout=120,
        ).text
        assert "\ntwolane_store_up 1.0\n" in metrics
        for container in (gateway, worker):
            containers.run("podman", "stop", "--time", "300", container)  # a killed process has another exit code
            assert containers.run("podman", "inspect", container, "--format", "{{.State.ExitCode}}") == "0"


def _answered_by(it: Deployed, key: str, target: str) -> httpx.Response:
    ends_s = time.monotonic() + 300
    while time.monotonic() < ends_s:
        answer = it.ask(key)
        if answer.status_code == 200 and answer.headers["x-twolane-target"] == target:
            return answer
        time.sleep(0.25)
    raise AssertionError(answer.text)


def _policy_is_followed(it: Deployed, key: str) -> None:
    """Write a new file and rename it, as an editor does."""
    before = it.ask(key).headers["x-twolane-policy"]
    text = (it.policies / "default.yaml").read_text().replace("p95_ms: 2000", "p95_ms: 2500")
    (it.policies / "new").write_text(text)
    os.replace(it.policies / "new", it.policies / "default.yaml")
    ends_s = time.monotonic() + 300
    while time.monotonic() < ends_s:
        if it.ask(key).headers["x-twolane-policy"] != before:
            return
        time.sleep(0.25)
    raise AssertionError("the policy was not taken over")


def _application_key(secrets: Path) -> str:
    """The printed key is no longer available, so create another one for the test."""
    from twolane.process.api_keys import key_line

    file = secrets / "gateway-keys"
    file.write_text(file.read_text() + key_line("tests", "tl-tests") + "\n")
    return "tl-tests"
