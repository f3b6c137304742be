"""The stage takes the usual ports where it can, and its scenes are faults of the proxy or the end of a process."""

import socket
from pathlib import Path

import pytest

from twolane.demo import environment
from twolane.demo.case_types import Scene
from twolane.demo.environment import FAULTS, HEADROOM, Setting, choose_ports, raise_slos, slowness
from twolane.fault_proxy.control import Mode


def test_usual_ports_are_taken_where_they_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as soon_free:
        busy, free = taken.getsockname()[1], soon_free.getsockname()[1]
        soon_free.close()
        monkeypatch.setattr(environment, "DEFAULT_PORTS", {"gateway": busy, "admin": free})
        ports = choose_ports(free_only=False)
    assert ports["admin"] == free
    assert ports["gateway"] != busy


def test_free_ports_are_five_different_ones() -> None:
    assert len(set(choose_ports(free_only=True).values())) == 5


def test_the_gateway_meets_the_worker_through_the_proxy_and_the_quality_server_directly(tmp_path: Path) -> None:
    ports = {"gateway": 1, "admin": 2, "worker": 3, "quality": 4, "proxy": 5}
    setting = Setting(checkpoint=tmp_path, policy=tmp_path / "p.yaml", logs=tmp_path, ports=ports)
    variables = environment._gateway_command(setting).environment
    assert variables["WORKER_URL"] == "http://127.0.0.1:5"
    assert variables["QUALITY_URL"] == "http://127.0.0.1:4"


def test_without_smollm2_the_quality_lane_is_a_second_worker(tmp_path: Path) -> None:
    """A process of its own: it answers also while the worker is killed."""
    ports = {"gateway": 1, "admin": 2, "worker": 3, "quality": 4, "proxy": 5}
    setting = Setting(checkpoint=tmp_path, policy=tmp_path / "p.yaml", logs=tmp_path, ports=ports, has_smollm2=False)
    command = environment._quality_command(setting)
    assert command.line[3:] == ("worker", "--checkpoint", str(tmp_path), "--port", "4", "--threads", "1")
    assert command.log != environment._worker_command(setting).log
    variables = environment._gateway_command(setting).environment
    assert variables["QUALITY_MODEL"] == "diffusion:autoregressive"


def test_calm_scenes_have_no_fault() -> None:
    assert FAULTS[Scene.CALM].mode is FAULTS[Scene.KILLED].mode is Mode.NONE
    disturbed = set(Scene) - {Scene.CALM, Scene.KILLED}
    assert all(FAULTS[scene].mode is not Mode.NONE for scene in disturbed)


def test_slos_are_raised_only_where_calm_answers_come_near_the_tightest_of_them() -> None:
    policy = "slo: {p95_ms: 1500, window_s: 300}\nslo: {p95_ms: 3000}"
    assert slowness(policy, 1500 / HEADROOM) == 1.0
    assert slowness(policy, 2 * 1500 / HEADROOM) == 2.0
    assert slowness("no slo", 1e9) == 1.0
    assert raise_slos(policy, 2.0) == "slo: {p95_ms: 3000, window_s: 300}\nslo: {p95_ms: 6000}"
