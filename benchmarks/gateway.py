"""Cost of the gateway per request: `python -m benchmarks.gateway [--check] [--json FILE]`; `--overload`: see
`gateway_overload`.

A real gateway process runs between a canned upstream and a closed-loop client, all on loopback. The most robust
figure on a small machine is the gateway's CPU time per request (user + system time of its process); the latency it
adds is compared with the same client talking to the upstream directly, in the same run.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks import gateway_overload as overload
from benchmarks.loopback import Load, Timing, drive, serve_canned

REQUEST_BUDGET_US: Final = 120.0
LEARNED_BUDGET_US: Final = 100.0  # added for requests that the trained classifier has to classify
CHUNK_BUDGET_US: Final = 45.0
CHUNKS: Final = 64
SCHEMA: Final = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
POLICY: Final = """
version: 1
targets:
  canned: {{kind: openai, url: "http://127.0.0.1:{port}", model: canned, location: in_cluster, engine: vllm}}
routes:
  - name: checked
    when: {{task: structured}}
    use: canned
    validate: {{schema: request, buffer: full}}
    slo: {{p95_ms: 5000}}
  - name: default
    use: canned
    slo: {{p95_ms: 5000}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result for one kind of request: the gateway's CPU time, and the latency with and without the gateway."""

    name: str
    requests: int
    cpu_us: float  # per request
    cpu_us_per_chunk: float | None  # of streams
    p50_ms: float
    direct_p50_ms: float
    failures: int
    budget_us: float = REQUEST_BUDGET_US

    @property
    def is_within(self) -> bool:
        """Whether the CPU time is within the budget."""
        if self.cpu_us_per_chunk is not None:
            return self.cpu_us_per_chunk <= CHUNK_BUDGET_US
        return self.cpu_us <= self.budget_us


def main() -> int:
    """Command line; returns 1 if `--check` finds a result over its budget, or if a request failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=4000, help="number of requests per kind")
    parser.add_argument("--overload", action="store_true", help="measure answers and refusals under overload instead")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of --overload")
    parser.add_argument("--seconds", type=float, default=4.0, help="duration of each load of --overload")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a result exceeds its budget")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--upstream", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.upstream and options.overload:
        uvloop.run(overload.serve_upstream(options.upstream, _plain_answer()))
    if options.upstream:
        asyncio.run(serve_canned(options.upstream, _plain_answer(), _stream_answer))
    upstream_port, gateway_port, admin_port = _free_ports(3)
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder) / "policy.yaml"
        policy.write_text(POLICY.format(port=upstream_port))
        upstream = [sys.executable, "-m", "benchmarks.gateway", "--upstream", str(upstream_port)]
        upstream += ["--overload"] if options.overload else []
        gateway = [sys.executable, "-m", "twolane", "serve", "--policy", str(policy)]
        gateway += ["--port", str(gateway_port), "--admin-port", str(admin_port)]
        with _process(upstream, upstream_port) as server, _process(gateway, gateway_port) as process:
            _wait_until_healthy(gateway_port)
            if options.overload:
                return _overload(options, process.pid, server.pid, gateway_port)
            results = [_measure(process.pid, gateway_port, upstream_port, load) for load in _loads(options.requests)]
    _show(results)
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    failed = any(result.failures for result in results) or (
        options.check and not all(result.is_within for result in results)
    )
    return int(failed)


def _overload(options: argparse.Namespace, gateway: int, upstream: int, port: int) -> int:
    """Measure under overload: the gateway on one processor, the load and the upstream on another."""
    for pid, index in ((gateway, 0), (upstream, 1), (os.getpid(), 1)):
        overload.pin(pid, index)
    body = next(iter(_loads(1))).body
    rounds = overload.measure(port, body, rounds=options.rounds, seconds=options.seconds)
    overload.show(rounds)
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in rounds], indent=1) + "\n")
    return int(options.check and not overload.is_within(rounds))


def _loads(requests: int) -> tuple[Load, ...]:
    history = [{"role": "user" if i % 2 == 0 else "assistant", "content": "word " * 60} for i in range(11)]
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    plain: dict[str, Any] = {"model": "auto", "messages": history}

    def load(name: str, body: dict[str, Any], count: int, chunks: int = 0) -> Load:
        return Load(name=name, body=json.dumps(body).encode(), requests=count, connections=16, chunks=chunks)

    return (
        load("relayed, 4 KB request", plain, requests),
        load("schema checked, 4 KB request", {**plain, "response_format": form}, requests),
        load(f"streamed, {CHUNKS} chunks", {**plain, "stream": True}, max(16, requests // 16), CHUNKS),
    )


def _measure(pid: int, gateway_port: int, upstream_port: int, load: Load) -> Result:
    warm = Load(name=load.name, body=load.body, requests=64, connections=16)
    asyncio.run(drive(gateway_port, warm))
    direct: Timing = asyncio.run(drive(upstream_port, load))
    before = _cpu_s(pid)
    through: Timing = asyncio.run(drive(gateway_port, load))
    cpu_us = 1e6 * (_cpu_s(pid) - before) / len(through.latencies_s)
    return Result(
        name=load.name,
        requests=len(through.latencies_s),
        cpu_us=cpu_us,
        cpu_us_per_chunk=cpu_us / load.chunks if load.chunks else None,
        p50_ms=through.quantile_ms(0.5),
        direct_p50_ms=direct.quantile_ms(0.5),
        failures=through.failures + direct.failures,
        budget_us=REQUEST_BUDGET_US + (0 if b"response_format" in load.body else LEARNED_BUDGET_US),
    )


def _cpu_s(pid: int) -> float:
    """User and system time of the process so far (proc(5), stat fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _process(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a child process that listens on `port`, and terminate it at the end."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 30
            while process.poll() is None and time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield process
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_until_healthy(port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as answer:
        answer.read()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _plain_answer() -> bytes:
    message = {"role": "assistant", "content": json.dumps({"name": "x" * 200})}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 900, "completion_tokens": 60, "total_tokens": 960}
    return json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": "canned", "choices": [choice]}
                      | {"usage": usage}).encode()  # fmt: skip


def _stream_answer() -> list[bytes]:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "canned"}

    def event(delta: dict[str, str], reason: str | None) -> bytes:
        choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
        return b"data: " + json.dumps(head | {"choices": choices}).encode() + b"\n\n"

    words = [event({"content": "word "}, None) for _ in range(CHUNKS - 2)]
    return [event({"role": "assistant"}, None), *words, event({}, "stop"), b"data: [DONE]\n\n"]


def _show(results: list[Result]) -> None:
    title = (
        f"Gateway on loopback: budgets {REQUEST_BUDGET_US:.0f} us a request,"
        f" {LEARNED_BUDGET_US:.0f} us more with the trained classifier, {CHUNK_BUDGET_US:.0f} us a chunk"
    )
    table = Table(title=title, title_justify="left")
    for heading in ("", "requests", "CPU us", "CPU us a chunk", "p50 ms", "direct p50 ms", "failed"):
        table.add_column(heading, justify="left" if not heading else "right")
    for result in results:
        color = "green" if result.is_within else "red"
        per_chunk = "" if result.cpu_us_per_chunk is None else f"[{color}]{result.cpu_us_per_chunk:.1f}"
        cpu = f"{result.cpu_us:.0f}" if per_chunk else f"[{color}]{result.cpu_us:.0f}"
        latencies = (f"{result.p50_ms:.2f}", f"{result.direct_p50_ms:.2f}")
        table.add_row(result.name, str(result.requests), cpu, per_chunk, *latencies, str(result.failures))
    Console(width=None if sys.stdout.isatty() else 110).print(table)


if __name__ == "__main__":
    sys.exit(main())
