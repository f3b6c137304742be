"""The public surface: hot routes as raw ASGI in front, everything else and the documentation by FastAPI."""

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import __version__
from gateway.errors import GatewayError, MethodNotAllowed, NotFound
from gateway.routing.policy import Policy
from gateway.types import Status, Target
from gateway.web.error_body import body_of, headers_of
from gateway.web.models import model_of, models_of

# FastAPI's own spans and meters would cost more than a whole request does here.
NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False}


class HotRoutes:
    """Exact paths go straight to their ASGI application, the rest to `others`."""

    def __init__(self, hot: Mapping[str, ASGIApp], others: ASGIApp) -> None:
        self._hot = dict(hot)
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One look-up, no middleware."""
        app = self._hot.get(scope["path"]) if scope["type"] == "http" else None
        await (app or self._others)(scope, receive, send)


def public_app(policy: Callable[[], Policy], status_of: Callable[[Target], Status]) -> FastAPI:
    """Everything of the public surface that is not hot."""
    app = FastAPI(title="Twolane", version=__version__, telemetry=NO_TELEMETRY)
    shape_errors(app)

    @app.get("/live")
    async def live() -> Response:
        """200 while the process lives."""
        return json_response({"status": "ok"})

    @app.get("/health")
    async def health() -> Response:
        """200 when able to serve; which policy is running."""
        return json_response({"status": "ok", "version": __version__, "policy": policy().version})

    @app.get("/v1/models")
    async def models() -> Response:
        """What can be asked for."""
        return json_response({"object": "list", "data": models_of(policy(), status_of)})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        """One of them."""
        return json_response(model_of(policy(), status_of, name))

    return app


def shape_errors(app: FastAPI) -> None:
    """Every refusal of the framework, in OpenAI's shape."""

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, fault: HTTPException) -> Response:
        """Unknown paths and methods."""
        if fault.status_code == 405:
            return error_response(MethodNotAllowed(f"{request.url.path} does not take {request.method}."))
        return error_response(NotFound(f"There is nothing at {request.url.path}."))

    @app.exception_handler(GatewayError)
    async def refused(_request: Request, error: GatewayError) -> Response:
        """Our own."""
        return error_response(error)


def json_response(document: Any, status: int = 200) -> Response:
    """A JSON answer of a route that is not hot."""
    return Response(orjson.dumps(document), status_code=status, media_type="application/json")


def error_response(error: GatewayError) -> Response:
    """One of our errors as an answer."""
    headers = {name.decode(): value.decode() for name, value in headers_of(error)}
    return Response(body_of(error), status_code=error.status, headers=headers)
