"""The routes of the public port that FastAPI serves: those that are neither performance-critical nor health checks."""

from collections.abc import Callable
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from gateway import __version__
from gateway.errors import GatewayError, MethodNotAllowed, NotFound
from gateway.routing.policy import Policy
from gateway.types import Status, Target
from gateway.web.error_body import body_of, headers_of
from gateway.web.headers import new_request_id, request_id_headers
from gateway.web.models import model_of, models_of, page_of
from twolane.process.api_keys import Key

# FastAPI's spans and meters would cost more than a whole request.
NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False}


def public_app(policy: Callable[[], Policy], status_of: Callable[[Target], Status]) -> FastAPI:
    """See the module."""
    app = FastAPI(title="Twolane", version=__version__, telemetry=NO_TELEMETRY)
    install_error_handlers(app)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        """List the models that requests can name, as far as the API key allows them."""
        return json_response(page_of(models_of(policy(), status_of, _allowed_models(request))))

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        """One model."""
        return json_response(model_of(policy(), status_of, name, _allowed_models(request)))

    return app


def _allowed_models(request: Request) -> frozenset[str] | None:
    key: Key | None = request.scope.get("state", {}).get("key")
    return key.models if key else None


def install_error_handlers(app: FastAPI) -> None:
    """Convert the framework's errors to the form of the API."""

    @app.exception_handler(HTTPException)
    async def framework_error(request: Request, fault: HTTPException) -> Response:
        """Unknown paths and methods."""
        if fault.status_code == 405:
            message = f"Method {request.method} is not allowed for {request.url.path}."
            error = MethodNotAllowed(message, allow=(fault.headers or {}).get("Allow", ""))
            return error_response(error, request.url.path)
        return error_response(NotFound(f"Unknown path {request.url.path}."), request.url.path)

    @app.exception_handler(GatewayError)
    async def gateway_error(request: Request, error: GatewayError) -> Response:
        """Errors of the gateway."""
        return error_response(error, request.url.path)


def json_response(document: Any, status: int = 200) -> Response:
    """A JSON response."""
    return Response(orjson.dumps(document), status_code=status, media_type="application/json")


def error_response(error: GatewayError, path: str) -> Response:
    """An error response in the form of the API at this path."""
    request_id = new_request_id()
    listed = [*headers_of(error), *request_id_headers(request_id, path)]
    headers = {name.decode(): value.decode() for name, value in listed}
    return Response(
        body_of(error, path, request_id), status_code=error.status, headers=headers, media_type="application/json"
    )
