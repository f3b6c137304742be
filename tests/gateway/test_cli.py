"""The commands: output and exit codes."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.cli import main
from gateway.settings import Settings
from twolane.process.api_keys import key_line

POLICY = """
version: 1
targets:
  quality: {kind: openai, engine: openai, url: "http://127.0.0.1:9", model: m, location: external}
routes:
  - {name: default, use: quality}
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    return file


def run(capsys: Any, *line: str) -> tuple[int, str, str]:
    try:
        code = main(line)
    except SystemExit as ended:
        code = int(str(ended.code))
    output = capsys.readouterr()
    return code, output.out, output.err


def test_a_valid_policy_is_reported_as_valid(capsys: Any, policy: Path) -> None:
    code, out, err = run(capsys, "policy", "check", str(policy))
    assert (code, err) == (0, "")
    assert "valid; 1 targets, 1 routes" in out


def test_a_check_prints_the_url_that_will_be_called_and_warns_of_unusable_keys(
    capsys: Any, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = """
  azure: {kind: openai, url: "https://h/openai/d?api-version=2&sig=secret", model: m, engine: openai,
          location: external, headers: {api-key: secret}}
  pool: {kind: worker, urls: ["http://a:1", "http://b:1/v1"], model: m, location: in_cluster}
  far: {kind: openai, url: "https://h.example", model: m, engine: openai, location: external, key_env: ABSENT}
"""
    with_key = POLICY.replace("location: external}", "location: external, key_env: ABSENT_KEY}")
    policy.write_text(with_key.replace("\nroutes:", f"{more}routes:"))
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@p:3128")
    monkeypatch.setenv("NO_PROXY", "")
    code, out, err = run(capsys, "policy", "check", str(policy))
    assert code == 0
    through = "through the proxy of HTTPS_PROXY"
    assert f"  azure: POST https://h/openai/d/chat/completions?api-version=2&sig=*** {through}\n" in out
    assert "  pool: POST http://a:1/v1/chat/completions\n  pool: POST http://b:1/v1/chat/completions\n" in out
    assert err == (
        "note: target quality: key_env: the variable ABSENT_KEY is not set\n"
        "warning: target far: key_env: the variable ABSENT is not set\n"
    )
    assert "secret" not in out + err


def test_a_check_reads_the_weights_that_the_policy_names(capsys: Any, policy: Path) -> None:
    policy.write_text(policy.read_text() + "\nclassifier: {weights: none.npz}\n")
    code, _, err = run(capsys, "policy", "check", str(policy))
    assert code == 2
    assert "none.npz" in err


def test_a_check_warns_of_targets_whose_cost_a_budget_cannot_count(capsys: Any, policy: Path) -> None:
    budget = "limits: [{dollars_per_day: 5}]\n"
    policy.write_text(POLICY + budget)
    code, _, err = run(capsys, "policy", "check", str(policy))
    assert (code, err) == (0, "warning: limits: dollars_per_day does not count target 'quality', which has no price\n")
    price = ", price: {input_per_million: 1, output_per_million: 2}}"
    policy.write_text(POLICY.replace("location: external}", f"location: external{price}") + budget)
    assert run(capsys, "policy", "check", str(policy))[2] == ""


def test_a_check_warns_of_a_route_whose_gate_has_no_effect(capsys: Any, policy: Path) -> None:
    blind = POLICY.replace("engine: openai", "engine: sglang_diffusion")
    policy.write_text(blind.replace("use: quality", "use: quality, min_confidence: 0.8"))
    code, _, err = run(capsys, "policy", "check", str(policy))
    assert (code, err) == (
        0,
        "warning: route 'default' has no gate at target 'quality': it reports neither a confidence nor"
        " log-probabilities, so `min_confidence` has no effect there\n",
    )


def test_an_invalid_policy_is_located_by_file_line_and_key(capsys: Any, policy: Path) -> None:
    policy.write_text(POLICY.replace("use: quality", "us: quality"))
    code, out, err = run(capsys, "policy", "check", str(policy))
    assert (code, out) == (2, "")
    assert err.startswith(f"twolane policy: {policy}:6:")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        (),
        ("dance",),
        ("policy",),
        ("policy", "check"),
        ("policy", "check", "none.yaml"),
        ("serve", "--policy", "none.yaml", "--port", "0", "--admin-port", "0"),
        ("serve", "--port", "many"),
        ("serve", "--host", "0.0.0.0"),
        ("serve", "--keys-file", "none", "--port", "0", "--admin-port", "0"),
        ("serve", "--colour", "blue"),
        ("policy", "explain", "none.json"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(
    capsys: Any, line: tuple[str, ...], tmp_path: Path, monkeypatch: Any, policy: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TWOLANE_POLICY", str(policy))
    code, out, err = run(capsys, *line)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("twolane")


def test_a_busy_port_is_named(capsys: Any, policy: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        code, out, err = run(capsys, "serve", "--policy", str(policy), "--port", str(port), "--admin-port", "0")
    assert (code, out) == (2, "")
    assert (
        err == f"twolane serve: --port (TWOLANE_PORT): cannot listen on 127.0.0.1 port {port}: Address already in use\n"
    )


def test_help_lists_the_settings(capsys: Any) -> None:
    """Each with its flag, unless a parent process sets it."""
    code, out, _ = run(capsys, "serve", "--help")
    assert code == 0
    for name in set(Settings.__dataclass_fields__) - {"handed_down"}:
        assert re.search(rf"  --{name.replace('_', '-')}[ ,]", out)
        assert f"TWOLANE_{name.upper()}]" in out.replace("\n", "")
    assert "handed" not in out.lower()


def test_every_setting_is_a_flag(capsys: Any, policy: Path) -> None:
    """A wrong value is named by its flag."""
    code, _, err = run(capsys, "serve", "--policy", str(policy), "--recent-decisions", "none")
    assert (code, err) == (2, "twolane serve: --recent-decisions: 'none' is not a whole number\n")


@pytest.mark.parametrize("command", ["check", "schema", "explain", "simulate", "diff", "suggest"])
def test_every_argument_of_a_policy_command_has_help(capsys: Any, command: str) -> None:
    code, out, _ = run(capsys, "policy", command, "--help")
    assert code == 0
    arguments = re.findall(r"^  (\S.*(?:\n {4,}.*)*)", out, re.MULTILINE)
    assert arguments
    for argument in arguments:
        assert re.search(r"\S(?:  +|\n +)\S", argument), argument


ROUTE_DETAILS = """
version: 1
targets:
  fast: {kind: worker, url: "http://a", model: m, location: in_cluster}
  quality: {kind: openai, engine: openai, url: "http://b", model: m, location: external}
routes:
  - name: nights
    when: {header: {x-batch: true}, key: ci, time: {from: "22:00", to: "06:00"}}
    use: fast
    slo: {first_token_p95_ms: 150}
    deadline_ms: 3000
    attempt_ms: 1200
    hedge: {after_ms: 800}
    shadow: {target: quality, share: 0.05}
    fall_back: quality
  - {name: default, use: quality}
"""


@pytest.mark.parametrize(
    ("given", "route"),
    [
        (["--header", "X-Batch=1", "--key", "ci", "--at", "2026-07-01T23:00+00:00"], "nights"),
        (["--header", "X-Batch=1", "--key", "ci", "--at", "2026-07-01T12:00+00:00"], "default"),
        (["--header", "X-Batch=1", "--at", "2026-07-01T23:00+00:00"], "default"),
        (["--key", "ci", "--at", "2026-07-01T23:00+00:00"], "default"),
    ],
)
def test_a_request_is_explained_with_its_headers_its_key_and_its_time(
    capsys: Any, tmp_path: Path, given: list[str], route: str
) -> None:
    (tmp_path / "p.yaml").write_text(ROUTE_DETAILS)
    (tmp_path / "r.json").write_text('{"model": "auto", "messages": [{"role": "user", "content": "hi"}]}')
    code, out, _ = run(
        capsys, "policy", "explain", str(tmp_path / "r.json"), "--policy", str(tmp_path / "p.yaml"), *given
    )
    assert code == 0
    assert f"route    {route}\n" in out
    if route == "nights":
        for line in (
            "slo      fast: first token p95 150 ms",
            "deadline 3000 ms, 1200 ms per attempt",
            "hedge    after 800 ms, at most 10% of requests",
            "shadow   quality, 5% of requests",
        ):
            assert line in out


LOCATIONS = """
version: 1
private_locations: [on-prem, attic]
targets:
  office: {kind: worker, url: "http://a", model: m, location: on-prem, min_confidence: 0.8}
  paris: {kind: openai, engine: openai, url: "http://b", model: m, location: eu}
  trial: {kind: openai, engine: openai, url: "http://c", model: m}
  annex: {kind: worker, url: "http://a/v1", model: n}
routes:
  - {name: european, when: {locations: [eu, on-perm]}, use: paris, locations: [eu, us]}
  - {name: default, use: trial, fall_back: [paris, office]}
"""


def test_a_check_lists_targets_by_location_and_warns_of_locations_that_no_target_has(capsys: Any, policy: Path) -> None:
    policy.write_text(LOCATIONS)
    code, out, err = run(capsys, "policy", "check", str(policy))
    assert code == 0
    for line in ("on-prem (private requests too): office", "eu: paris", "no location: trial, annex"):
        assert f"  {line}\n" in out
    assert err == (
        "warning: targets 'office' and 'annex' are one server, but in on-prem and no location\n"
        "warning: private_locations: no target is in 'attic'; allowed: eu, on-prem\n"
        "warning: locations of route 'european': no target is in 'us'; allowed: eu, on-prem\n"
        "warning: when.locations of route 'european': no target is in 'on-perm'; did you mean 'on-prem'?\n"
    )


@pytest.mark.parametrize(
    ("given", "code", "expected"),
    [
        ([], 0, ["route    default\n", "targets  trial, paris, office\n", "(no location): eligible"]),
        (["--key", "ann"], 0, ["route    european\n", "limited  to eu\n", "targets  paris\n"]),
        (["--header", "x-twolane-private=1"], 0, ["route    default (private)\n", "targets  office\n"]),
        (["--key", "ann", "--header", "x-twolane-locations=us"], 1, ["503 no_target_in_location: The request is"]),
        (["--key", "ann", "--header", "x-twolane-locations=a b"], 1, ["400 invalid_value: 'x-twolane-locations'"]),
        (["--key", "nobody"], 2, []),
    ],
)
def test_an_explanation_applies_the_limits_of_a_request_and_of_its_key(
    capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], code: int, expected: list[str]
) -> None:
    (tmp_path / "p.yaml").write_text(LOCATIONS)
    (tmp_path / "r.json").write_text('{"model": "auto", "messages": [{"role": "user", "content": "hi"}]}')
    (tmp_path / "keys").write_text(key_line("ann", "a", ["locations=eu"]))
    monkeypatch.setenv("TWOLANE_KEYS_FILE", str(tmp_path / "keys"))
    line = ("policy", "explain", str(tmp_path / "r.json"), "--policy", str(tmp_path / "p.yaml"))
    found, out, err = run(capsys, *line, *given)
    assert found == code
    assert all(text in out for text in expected)
    assert err == ("" if code < 2 else f"twolane policy: keys file {tmp_path / 'keys'}: no key is named 'nobody'\n")


@pytest.mark.parametrize(("command", "named"), [(["serve"], "serve"), (["policy", "schema"], "policy schema")])
def test_an_unknown_flag_is_refused_by_its_command(capsys: Any, command: list[str], named: str) -> None:
    code, _, err = run(capsys, *command, "--prot", "1")
    assert (code, err) == (2, f"twolane {named}: unrecognized arguments: --prot 1 (see twolane {named} --help)\n")


def test_a_time_that_cannot_be_read_is_refused_with_an_example(capsys: Any, tmp_path: Path) -> None:
    code, _, err = run(capsys, "policy", "explain", str(tmp_path / "request.json"), "--at", "noon")
    assert code == 2
    assert "argument --at: 'noon' is not an ISO 8601 time, such as 2026-07-01T12:00+00:00" in err


def test_a_header_without_a_value_is_wrong_use(capsys: Any) -> None:
    code, _, errors = run(capsys, "policy", "explain", "r.json", "--header", "x-batch")
    assert code == 2
    assert "invalid header 'x-batch'; expected NAME=VALUE" in errors


def test_a_request_is_explained_without_sending_it(capsys: Any, policy: Path, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text('{"model": "auto", "messages": [{"role": "user", "content": "hi"}]}')
    code, out, _ = run(capsys, "policy", "explain", str(request), "--policy", str(policy))
    assert code == 0
    assert "route    default" in out
    assert "targets  quality" in out
    request.write_text('{"model": "auto"}')
    code, out, _ = run(capsys, "policy", "explain", str(request), "--policy", str(policy))
    assert code == 1
    assert "messages" in out
    request.write_text('{"model": "auto", "prompt": "def f():", "suffix": "f()"}')
    line = ("policy", "explain", str(request), "--policy", str(policy), "--path", "/v1/completions")
    code, out, _ = run(capsys, *line)
    assert (code, "task     autocomplete (1.00, by api)" in out) == (0, True)


@pytest.fixture
def process(policy: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TWOLANE_")}
    line = [sys.executable, "-m", "gateway", "serve", "--policy", str(policy), "--port", "0", "--admin-port", "0"]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=Path(__file__).parents[2]
    ) as started:
        yield started
        started.kill()


def test_it_serves_until_sigterm(process: subprocess.Popen[str], policy: Path) -> None:
    """SIGHUP reloads the policy, SIGTERM ends the process with 0."""
    assert process.stdout is not None
    first = process.stdout.readline()
    urls = [word.strip(",") for word in first.split() if word.startswith("http")]
    assert len(urls) == 2
    with httpx.Client(trust_env=False, timeout=120) as client:
        before = client.get(f"{urls[0]}/health").json()["policy"]
        policy.write_text(POLICY.replace("name: default", "name: other"))
        process.send_signal(signal.SIGHUP)
        while client.get(f"{urls[1]}/health").json()["policy"] == before:
            time.sleep(0.01)
        assert client.get(f"{urls[0]}/health").json()["policy"] != before
    process.send_signal(signal.SIGTERM)
    assert process.wait(500) == 0
