"""Routes that both ports share: liveness, health, metrics and error responses of the router."""

from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from diffusion_worker.errors import WorkerError
from diffusion_worker.memory.lifecycle import SERVING
from diffusion_worker.telemetry.metrics import CONTENT_TYPE
from diffusion_worker.web.error_body import MethodNotAllowed, NoSuchRoute, problem_of
from diffusion_worker.web.serving_state import ServingState


def app_with_probes(serving_state: ServingState, known: Sequence[str]) -> FastAPI:
    """A FastAPI application with the probes; the 404 response lists the paths in `known`."""
    app = FastAPI(
        title="twolane worker",
        version=serving_state.version,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # With a global tracer provider every probe would create a span.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )

    @app.get("/live")
    async def live() -> Response:
        """Liveness of the process."""
        return json_response({"status": "ok"})

    @app.get("/health")
    async def health() -> Response:
        """Readiness and load of the worker."""
        body = health_body(serving_state)
        return json_response(body, 200 if body["state"] in SERVING else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Metrics in the Prometheus text format."""
        return Response(serving_state.meters.render(serving_state.engine.status()), media_type=CONTENT_TYPE)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        """OpenAI error bodies for unknown paths and methods."""
        if error.status_code == 405:
            message = f"{request.url.path} does not support {request.method}."
            return _refusal(MethodNotAllowed(message, allow=(error.headers or {}).get("Allow", "")))
        return _refusal(NoSuchRoute(f"Unknown path {request.url.path}; available: {', '.join(known)}."))

    @app.exception_handler(WorkerError)
    async def refused(_request: Request, error: WorkerError) -> Response:
        """OpenAI error bodies for worker errors."""
        return _refusal(error)

    return app


def health_body(serving_state: ServingState) -> dict[str, Any]:
    """State and load of the worker."""
    status = serving_state.engine.status()
    wait_ms = status.predicted_wait_ms
    return {
        "state": status.state.value,
        "model": serving_state.model,
        "running": status.running,
        "waiting": status.waiting,
        "max_num_seqs": status.max_num_seqs,
        "predicted_wait_ms": None if wait_ms is None else round(wait_ms),
        "memory": {"used_bytes": status.memory_used_bytes, "limit_bytes": status.memory_limit_bytes},
        "version": serving_state.version,
    }


def json_response(body: object, status: int = 200) -> Response:
    """A JSON response, serialised with orjson."""
    return Response(orjson.dumps(body), status_code=status, media_type="application/json")


def _refusal(error: WorkerError) -> Response:
    problem = problem_of(error)
    response = json_response(problem.body, problem.status)
    response.raw_headers.extend(problem.headers)
    return response
