"""Routes of the worker's public port: chat and text completions, decisions, tokenization, models, health and metrics.

The generation endpoints are raw ASGI and bypass FastAPI, which serves all other routes.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from diffusion_worker.types.requests import DecodingMode
from diffusion_worker.web.chat import prepare_chat
from diffusion_worker.web.completions import prepare_completion
from diffusion_worker.web.decisions import DecisionEndpoint
from diffusion_worker.web.error_body import MethodNotAllowed
from diffusion_worker.web.handler import Endpoint
from diffusion_worker.web.health import app_with_probes, json_response
from diffusion_worker.web.http_io import limit_bodies
from diffusion_worker.web.middleware import Middleware
from diffusion_worker.web.requests.api_support import capabilities_of
from diffusion_worker.web.serving_state import ServingState
from diffusion_worker.web.tokenize import TokenizeEndpoint

TOKENIZE_PATH = "/tokenize"
DIALECTS = {"/v1/chat/completions": prepare_chat, "/v1/completions": prepare_completion}
DECISIONS = "/v1/decisions"


def build_routes(serving_state: ServingState) -> ASGIApp:
    """The ASGI application of the public port."""
    hot: dict[str, ASGIApp] = {path: Endpoint(serving_state, prepare) for path, prepare in DIALECTS.items()}
    hot |= {DECISIONS: DecisionEndpoint(serving_state), TOKENIZE_PATH: TokenizeEndpoint(serving_state)}
    router = _Router(hot, _cold_routes(serving_state))
    limited = limit_bodies(router, serving_state, max_body_bytes=serving_state.max_body_bytes)
    return Middleware(limited, serving_state)


class _Router:
    """Routes generation requests to their endpoint, and everything else to FastAPI."""

    def __init__(self, hot: Mapping[str, ASGIApp], cold: FastAPI) -> None:
        self._hot, self._cold = hot, cold

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._hot.get(scope["path"]) if scope["type"] == "http" else None
        if endpoint is None:
            if scope.get("method") == "HEAD":
                scope = {**scope, "method": "GET"}  # the connection omits the body
            await self._cold(scope, receive, send)
            return
        if scope["method"] != "POST":
            raise MethodNotAllowed(f"{scope['path']} supports POST, not {scope['method']}.", allow="POST")
        await endpoint(scope, receive, send)


def _cold_routes(serving_state: ServingState) -> FastAPI:
    app = app_with_probes(serving_state, (*DIALECTS, DECISIONS, TOKENIZE_PATH, "/v1/models"))

    @app.get("/v1/models")
    async def models() -> Response:
        """One model per decoding mode."""
        return json_response(
            {"object": "list", "data": [model_body(serving_state, decoding_mode) for decoding_mode in DecodingMode]}
        )

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> Response:
        """One model, by id or alias."""
        return json_response(model_body(serving_state, serving_state.decoding_mode_of(model)))

    return app


def model_body(serving_state: ServingState, decoding_mode: DecodingMode) -> dict[str, Any]:
    """One model id with its capabilities; sizes are null until the weights are loaded."""
    info = serving_state.engine.info
    extension = {
        "decoding_mode": decoding_mode.value,
        "aliases": [alias for alias, meant in serving_state.aliases.items() if meant is decoding_mode],
        "capabilities": capabilities_of(decoding_mode, serving_state.features),
        "context_length": info.max_context if info else None,
        "canvas_length": info.denoising.canvas_length if info else None,
    }
    return {
        "id": serving_state.model_id(decoding_mode),
        "object": "model",
        "created": serving_state.created,
        "owned_by": "twolane",
        "twolane": extension,
    }
