"""The worker's HTTP surface: chat, text completions, models, health, metrics.

The hot routes are raw ASGI and go past the router; everything else is looked up by FastAPI. All share one port.
"""

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from diffusion_worker.errors import WorkerError
from diffusion_worker.records import Reading, Residency
from diffusion_worker.telemetry import CONTENT_TYPE
from diffusion_worker.text.chat_template import TURNS_ONLY
from diffusion_worker.web.chat import understand_chat
from diffusion_worker.web.completions import understand_completion
from diffusion_worker.web.desk import Desk
from diffusion_worker.web.envelope import Envelope
from diffusion_worker.web.problems import MethodNotAllowed, NoSuchRoute, problem_of
from diffusion_worker.web.relay import Endpoint
from diffusion_worker.web.surface import capabilities_of

DIALECTS = {"/v1/chat/completions": understand_chat, "/v1/completions": understand_completion}
_SERVING = frozenset({Residency.READY, Residency.DEGRADED})


def build_routes(desk: Desk) -> ASGIApp:
    """The whole application."""
    hot = {path: Endpoint(desk, understand) for path, understand in DIALECTS.items()}
    return Envelope(_Switch(hot, _cold_routes(desk)), desk)


class _Switch:
    """The hot routes first, past middleware and router."""

    def __init__(self, hot: Mapping[str, Endpoint], cold: FastAPI) -> None:
        self._hot, self._cold = hot, cold

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._hot.get(scope["path"]) if scope["type"] == "http" else None
        if endpoint is None:
            await self._cold(scope, receive, send)
            return
        if scope["method"] != "POST":
            raise MethodNotAllowed(f"{scope['path']} takes POST, not {scope['method']}.")
        await endpoint(scope, receive, send)


def _cold_routes(desk: Desk) -> FastAPI:
    app = FastAPI(
        title="twolane worker",
        version=desk.version,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # A global tracer provider must not make every probe a span.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )

    @app.get("/live")
    async def live() -> Response:
        """The process lives."""
        return _json({"status": "ok"})

    @app.get("/health")
    async def health() -> Response:
        """Whether requests would be served, and how busy the worker is."""
        body = health_body(desk)
        return _json(body, 200 if body["state"] in _SERVING else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus' text format."""
        return Response(desk.meters.render(desk.engine.status()), media_type=CONTENT_TYPE)

    @app.get("/v1/models")
    async def models() -> Response:
        """Both readings of the weights."""
        return _json({"object": "list", "data": [model_body(desk, reading) for reading in Reading]})

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> Response:
        """One of them, by id or alias."""
        return _json(model_body(desk, desk.reading_of(model)))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        """Unknown paths and methods, in OpenAI's shape."""
        if error.status_code == 405:
            return _refusal(MethodNotAllowed(f"{request.url.path} does not take {request.method}."))
        known = ", ".join((*DIALECTS, "/v1/models"))
        return _refusal(NoSuchRoute(f"Unknown path {request.url.path}; there are {known}."))

    @app.exception_handler(WorkerError)
    async def refused(_request: Request, error: WorkerError) -> Response:
        """The router would answer anything else with a page of its own."""
        return _refusal(error)

    return app


def health_body(desk: Desk) -> dict[str, Any]:
    """State and load of the worker."""
    status = desk.engine.status()
    wait_ms = status.predicted_wait_ms
    return {
        "state": status.state.value,
        "model": desk.model,
        "running": status.running,
        "waiting": status.waiting,
        "max_num_seqs": status.max_num_seqs,
        "predicted_wait_ms": None if wait_ms is None else round(wait_ms),
        "memory": {"used_bytes": status.memory_used_bytes, "limit_bytes": status.memory_limit_bytes},
        "version": desk.version,
    }


def model_body(desk: Desk, reading: Reading) -> dict[str, Any]:
    """One model id with what it can do; sizes are null until the weights are loaded."""
    facts = desk.engine.facts
    extension = {
        "reading": reading.value,
        "aliases": [alias for alias, meant in desk.aliases.items() if meant is reading],
        "capabilities": capabilities_of(reading, desk.abilities or TURNS_ONLY),
        "context_length": facts.max_context if facts else None,
        "canvas_length": facts.recipe.canvas_length if facts else None,
    }
    return {
        "id": desk.id_of(reading),
        "object": "model",
        "created": desk.created,
        "owned_by": "twolane",
        "twolane": extension,
    }


def _refusal(error: WorkerError) -> Response:
    problem = problem_of(error)
    response = _json(problem.body, problem.status)
    response.raw_headers.extend(problem.headers)
    return response


def _json(body: object, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status_code=status, media_type="application/json")
