"""`twolane admin` sends the right request with the key, prints the answer, and reports a failure in one line."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from gateway.telemetry import metric_names
from twolane.admin import tables
from twolane.admin.command import main

PAGE = """# TYPE twolane_lane_state gauge
twolane_lane_state{route="edits",target="fast"} 2.0
twolane_lane_p95_seconds{route="edits",target="fast"} 4.1
twolane_lane_budget_seconds{route="edits",target="fast"} 2.0
twolane_lane_state{route="edits",target="new"} 0.0
twolane_breaker_state{target="fast"} 1.0
twolane_breaker_state{target="quality"} 0.0
twolane_in_flight{target="fast"} 3.0
twolane_requests_waiting{target="fast"} 7.0
twolane_target_residency{target="fast",state="ready"} 1.0
twolane_target_predicted_wait_seconds{target="fast"} 0.25
twolane_policy_info{hash="abc123"} 1.0
twolane_policy_loaded_timestamp_seconds 1000.0
twolane_policy_current 0.0
twolane_store_up 0.0
"""


class Port:
    """An admin port that remembers requests."""

    def __init__(self) -> None:
        self.status, self.body, self.requests = 200, b"{}", list[tuple[str, str | None, bytes]]()
        self.headers: dict[str, str] = {}
        port = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                port.requests.append((f"{self.command} {self.path}", self.headers.get("authorization"), body))
                self.send_response(port.status)
                for name, value in port.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(port.body)

            do_POST = do_GET  # noqa: N815 - http.server's name

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.number = str(self.server.server_port)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[Port]:
    for variable in ("TWOLANE_ADMIN_URL", "TWOLANE_ADMIN_KEY", "TWOLANE_ADMIN_KEY_FILE"):
        monkeypatch.delenv(variable, raising=False)
    one = Port()
    monkeypatch.setenv("TWOLANE_ADMIN_PORT", one.number)
    monkeypatch.setenv("TWOLANE_WORKER_ADMIN_PORT", one.number)
    thread = threading.Thread(target=one.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.mark.parametrize(
    ("line", "request_line", "body"),
    [
        (["decision", "req_1/2"], "GET /admin/decisions/req_1%2F2", b""),
        (["health"], "GET /health", b""),
        (["state"], "GET /admin/state", b""),
        (["load"], "POST /admin/load", b"{}"),
        (["unload"], "POST /admin/unload", b"{}"),
        (["unload", "--drain-s", "5"], "POST /admin/unload", b'{"timeout_s": 5.0}'),
        (["limit", "4"], "POST /admin/limits", b'{"max_num_seqs": 4}'),
    ],
)
def test_a_command_is_one_request_to_the_port_of_the_process_beside_it(
    port: Port, line: list[str], request_line: str, body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    port.body = b'{"state":"ready"}'
    assert main(line) == 0
    assert port.requests == [(request_line, None, body)]
    assert json.loads(capsys.readouterr().out) == {"state": "ready"}


def test_a_request_to_explain_is_read_from_a_file(port: Port, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text('{"messages":[]}')
    assert main(["explain", str(tmp_path / "request.json"), "--path", "/v1/messages"]) == 0
    assert port.requests == [("POST /admin/explain?path=/v1/messages", None, b'{"messages":[]}')]


@pytest.mark.parametrize("source", ["TWOLANE_ADMIN_KEY", "TWOLANE_ADMIN_KEY_FILE", "--key-file"])
def test_the_key_comes_from_a_file_or_from_the_environment(
    port: Port, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    file.write_text("secret\n")
    if source.startswith("TWOLANE"):
        monkeypatch.setenv(source, "secret" if source == "TWOLANE_ADMIN_KEY" else str(file))
    assert main(["health", *(("--key-file", str(file)) if source == "--key-file" else ())]) == 0
    assert port.requests[0][1] == "Bearer secret"


def test_lanes_are_shown_with_their_state_in_words(port: Port, capsys: pytest.CaptureFixture[str]) -> None:
    port.body = PAGE.encode()
    assert main(["lanes"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["edits", "fast", "ejected", "4100", "ms", "2000", "ms"] in lines
    assert ["edits", "new", "serving", "-", "-"] in lines
    assert ["fast", "half", "open", "3", "7", "ready", "250", "ms"] in lines
    assert ["quality", "closed", "-", "-", "-", "-"] in lines
    assert lines[-2][:2] == ["policy", "abc123"]
    assert "fails" in lines[-2]
    assert lines[-1][1:] == ["no", "exchange", "with", "other", "replicas"]


def test_without_redis_the_table_says_so_instead_of_reporting_a_loss(
    port: Port, capsys: pytest.CaptureFixture[str]
) -> None:
    port.body = PAGE.replace("twolane_store_up 0.0\n", "").encode()
    assert main(["lanes"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("not used")


def test_the_names_that_the_tables_read_are_exported() -> None:
    text = Path(tables.__file__).read_text()
    read = {word for word in text.replace('"', " ").replace("'", " ").split() if word.startswith("twolane_")}
    assert read
    assert read <= {value for value in vars(metric_names).values() if isinstance(value, str)}


def test_metrics_can_be_filtered(port: Port, capsys: pytest.CaptureFixture[str]) -> None:
    port.body = PAGE.encode()
    assert main(["metrics", "breaker"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_refusal_is_one_line_with_its_reason_and_the_remedy(port: Port, capsys: pytest.CaptureFixture[str]) -> None:
    port.status, port.body = 401, b'{"error":{"message":"Invalid\\nAPI key."}}'
    assert main(["state"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "HTTP 401: Invalid API key." in said
    assert "TWOLANE_ADMIN_KEY" in said


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_with_the_key(
    port: Port, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TWOLANE_ADMIN_KEY", "secret")
    port.status, port.headers = status, {"location": f"http://localhost:{port.number}/other"}
    assert main(["health"]) == 1
    assert f"HTTP {status}" in capsys.readouterr().err
    assert [request[0] for request in port.requests] == ["GET /health"]


@pytest.mark.parametrize("key", ["secret\nsecond", "secret\r\nx: y", "secret\u20ac"])
@pytest.mark.parametrize("is_file", [True, False])
def test_a_key_that_cannot_be_sent_is_not_shown(
    port: Port,
    key: str,
    is_file: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "key").write_text(key, encoding="utf-8")
    if not is_file:
        monkeypatch.setenv("TWOLANE_ADMIN_KEY", key)
    assert main(["health", *(("--key-file", str(tmp_path / "key")) if is_file else ())]) == 1
    said = capsys.readouterr()
    assert "not a key" in said.err
    assert "secret" not in said.out + said.err
    assert not port.requests


@pytest.mark.parametrize("body", [b"<html>", b"", b"\xff", b"[" * 100_000])
def test_an_answer_that_is_no_json_is_reported(port: Port, body: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    port.body = body
    assert main(["health"]) == 1
    assert "not JSON" in capsys.readouterr().err


def test_a_metrics_page_that_is_none_is_reported(port: Port, capsys: pytest.CaptureFixture[str]) -> None:
    port.body = b'a{b="c" 1'
    assert main(["lanes"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_no_answer_is_one_line_that_names_the_address(port: Port, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--url", "http://127.0.0.1:1", "--timeout", "2"]) == 1
    said = capsys.readouterr().err
    assert "http://127.0.0.1:1/health" in said
    assert said.count("\n") == 1
    assert not port.requests


def test_a_key_file_that_cannot_be_read_is_named(port: Port, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--key-file", "/nonexistent"]) == 1
    assert "/nonexistent" in capsys.readouterr().err
    assert not port.requests


@pytest.mark.parametrize(
    "line", [[], ["lans"], ["decision"], ["health", "--timeout", "0"], ["health", "--url", "file:///"]]
)
def test_wrong_use_is_exit_2(line: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(line)
