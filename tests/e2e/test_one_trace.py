"""A client's trace continues through gateway and worker, two real processes that export through a real collector."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.collector import USER_AGENT, collecting
from twolane.process.children import Child, Command
from twolane.process.flags import free_port

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CLIENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
SECRET = "zebra crossing"


POLICY = """
version: 1
targets:
  fast: {kind: worker, url: "${WORKER_URL}", model: diffusion, location: in_cluster}
routes:
  - {name: default, use: fast}
"""


class Receiver:
    """An OTLP receiver that collects spans."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.spans: list[tuple[str, Any]] = []
        self.instances: dict[str, str] = {}  # by service
        self.senders: set[str] = set()
        self.port = free_port()
        self.is_complete = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.raw.append(body)
        self.senders.add(request.headers["user-agent"].split()[0].lower())
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {each.key: each.value.string_value for each in group.resource.attributes}
            service = named["service.name"]
            self.instances[service] = named.get("service.instance.id", "")
            self.spans += [(service, span) for scope in group.scope_spans for span in scope.spans]
        # Gateway and worker export independently, so spans arrive in any order.
        known = {span.span_id for _, span in self.spans} | {bytes.fromhex(CLIENT.split("-")[2])}
        services = {service for service, _ in self.spans}
        if len(services) == 2 and all(span.parent_span_id in known for _, span in self.spans):
            self.is_complete.set()
        return web.Response(body=b"", content_type="application/x-protobuf")


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/v1/traces", receiver.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", receiver.port).start()
    try:
        yield receiver
    finally:
        await runner.cleanup()


def child(folder: Path, *line: str, **environment: str) -> Child:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TWOLANE_", "OTEL_"))}
    return Child(
        Command(
            name=line[0],
            line=(sys.executable, "-m", "twolane", *line),
            environment={**kept, **environment},
            log=folder / f"{line[0]}.log",
        )
    )


async def test_spans_of_both_processes_belong_to_the_clients_trace(tmp_path: Path) -> None:
    ports = {name: free_port() for name in ("worker", "public", "admin")}
    worker_url = f"http://127.0.0.1:{ports['worker']}"
    async with receiving() as receiver, contextlib.AsyncExitStack() as stack:
        otel = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": await stack.enter_async_context(collecting(tmp_path, receiver.port)),
            "OTEL_TRACES_SAMPLER": "parentbased_always_off",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        checkpoint = ROOT / "checkpoints" / "twolane-tiny"
        line = ("worker", "--checkpoint", str(checkpoint), "--port", str(ports["worker"]), "--threads", "1")
        (tmp_path / "policy.yaml").write_text(POLICY)
        worker = await stack.enter_async_context(child(tmp_path, *line, "--log", "json", **otel))
        await worker.serve(f"{worker_url}/health", within_s=300)
        gateway = await stack.enter_async_context(
            child(
                tmp_path,
                "serve",
                TWOLANE_POLICY=str(tmp_path / "policy.yaml"),
                TWOLANE_PORT=str(ports["public"]),
                TWOLANE_ADMIN_PORT=str(ports["admin"]),
                TWOLANE_REPLICA_NAME="gateway-7",
                WORKER_URL=worker_url,
                **otel,
            )
        )
        await gateway.serve(f"http://127.0.0.1:{ports['public']}/health", within_s=300)
        async with httpx.AsyncClient(
            timeout=120, trust_env=False, base_url=f"http://127.0.0.1:{ports['public']}"
        ) as http:
            body = {"model": "auto", "max_tokens": 32, "metadata": {"task": "edit"}, "seed": 1}
            body["messages"] = [{"role": "user", "content": f"Clean up this commit subject: {SECRET}"}]
            await http.post("/v1/chat/completions", json=body)  # not sampled
            answer = await http.post("/v1/chat/completions", json=body, headers={"traceparent": CLIENT})
        assert answer.status_code == 200, answer.text
        async with asyncio.timeout(120):
            await receiver.is_complete.wait()
    assert receiver.senders == {USER_AGENT}
    assert receiver.instances["twolane-gateway"] == answer.headers["x-twolane-gateway"] == "gateway-7"
    assert {span.trace_id.hex() for _, span in receiver.spans} == {TRACE_ID}
    (request,) = [span for _, span in receiver.spans if span.parent_span_id.hex() == "00f067aa0ba902b7"]
    attempts = {span.span_id: span for _, span in receiver.spans if span.parent_span_id == request.span_id}
    (served,) = [span for service, span in receiver.spans if service == "twolane-worker"]
    assert served.parent_span_id in attempts
    assert answer.headers["traceresponse"].split("-")[2] == request.span_id.hex()
    assert [event.name for event in served.events][:2] == ["placed", "prefilled"]
    assert attempts[served.parent_span_id].start_time_unix_nano <= served.end_time_unix_nano
    assert not any(SECRET.encode() in raw for raw in receiver.raw)
    assert TRACE_ID in (tmp_path / "worker.log").read_text()
