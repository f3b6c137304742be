"""The demo's environment prefers default ports, and injects faults by the proxy or by killing the worker."""

import socket
from pathlib import Path

import pytest

from twolane.demo import environment
from twolane.demo.case_types import DemoFault
from twolane.demo.environment import HEADROOM, PROXY_FAULTS, DemoConfig, check_ports, choose_ports, raise_slos, slowness
from twolane.fault_proxy.control import Mode
from twolane.process.children import ProcessError
from twolane.process.flags import free_port


def test_default_ports_are_used_if_they_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy, free = taken.getsockname()[1], free_port()
        monkeypatch.setattr(environment, "DEFAULT_PORTS", {"gateway": busy, "admin": free})
        ports = choose_ports(free_only=False)
    assert ports["admin"] == free
    assert ports["gateway"] != busy


def test_free_ports_are_all_different() -> None:
    assert len(set(choose_ports(free_only=True).values())) == 5


@pytest.mark.parametrize("part", ["gateway", "admin"])
def test_a_port_that_was_taken_before_the_gateway_starts_is_named(part: str) -> None:
    ports = choose_ports(free_only=True)
    check_ports(ports)
    with (
        socket.create_server(("127.0.0.1", ports[part])),
        pytest.raises(ProcessError, match=rf"{ports[part]} \({part}\)"),
    ):
        check_ports(ports)


def test_the_gateway_reaches_the_worker_through_the_proxy_and_the_quality_server_directly(tmp_path: Path) -> None:
    ports = {"gateway": 1, "admin": 2, "worker": 3, "quality": 4, "proxy": 5}
    config = DemoConfig(checkpoint=tmp_path, policy=tmp_path / "p.yaml", logs=tmp_path, ports=ports)
    variables = environment._gateway_command(config).environment
    assert variables["WORKER_URL"] == "http://127.0.0.1:5"
    assert variables["QUALITY_URL"] == "http://127.0.0.1:4"


def test_without_smollm2_the_quality_lane_is_a_second_worker(tmp_path: Path) -> None:
    """A separate process, which also serves while the worker is killed."""
    ports = {"gateway": 1, "admin": 2, "worker": 3, "quality": 4, "proxy": 5}
    config = DemoConfig(checkpoint=tmp_path, policy=tmp_path / "p.yaml", logs=tmp_path, ports=ports, has_smollm2=False)
    command = environment._quality_command(config)
    assert command.line[3:] == ("worker", "--checkpoint", str(tmp_path), "--port", "4", "--threads", "1")
    assert command.log != environment._worker_command(config).log
    variables = environment._gateway_command(config).environment
    assert variables["QUALITY_MODEL"] == "diffusion:autoregressive"


def test_only_faults_of_responses_set_a_proxy_mode() -> None:
    assert PROXY_FAULTS[DemoFault.NONE].mode is PROXY_FAULTS[DemoFault.WORKER_KILLED].mode is Mode.NONE
    with_mode = set(DemoFault) - {DemoFault.NONE, DemoFault.WORKER_KILLED}
    assert all(PROXY_FAULTS[fault].mode is not Mode.NONE for fault in with_mode)


def test_slos_are_raised_only_if_latency_without_faults_is_near_the_lowest_one() -> None:
    policy = "slo: {p95_ms: 1500, window_s: 300}\nslo: {p95_ms: 3000}"
    assert slowness(policy, 1500 / HEADROOM) == 1.0
    assert slowness(policy, 2 * 1500 / HEADROOM) == 2.0
    assert slowness("no slo", 1e9) == 1.0
    assert raise_slos(policy, 2.0) == "slo: {p95_ms: 3000, window_s: 300}\nslo: {p95_ms: 6000}"
