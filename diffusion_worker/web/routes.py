"""The worker's HTTP surface: chat, text completions, models, health, metrics.

The hot routes are raw ASGI and go past the router; everything else is looked up by FastAPI. All share one port.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from diffusion_worker.types.generation import Reading
from diffusion_worker.web.chat import understand_chat
from diffusion_worker.web.completions import understand_completion
from diffusion_worker.web.error_body import MethodNotAllowed
from diffusion_worker.web.handler import Endpoint
from diffusion_worker.web.health import json_response, probed_app
from diffusion_worker.web.middleware import Envelope
from diffusion_worker.web.requests.api_support import capabilities_of
from diffusion_worker.web.serving_state import Desk

DIALECTS = {"/v1/chat/completions": understand_chat, "/v1/completions": understand_completion}


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
    app = probed_app(desk, (*DIALECTS, "/v1/models"))

    @app.get("/v1/models")
    async def models() -> Response:
        """Both readings of the weights."""
        return json_response({"object": "list", "data": [model_body(desk, reading) for reading in Reading]})

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> Response:
        """One of them, by id or alias."""
        return json_response(model_body(desk, desk.reading_of(model)))

    return app


def model_body(desk: Desk, reading: Reading) -> dict[str, Any]:
    """One model id with what it can do; sizes are null until the weights are loaded."""
    facts = desk.engine.facts
    extension = {
        "reading": reading.value,
        "aliases": [alias for alias, meant in desk.aliases.items() if meant is reading],
        "capabilities": capabilities_of(reading),
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
