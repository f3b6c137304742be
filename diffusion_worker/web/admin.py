"""Routes of the admin port: state, load and unload weights, and limit the batch size.

It uses the same API keys as the public port. A request returns when its operation is complete.
"""

from typing import Any

from fastapi import Request, Response
from starlette.types import ASGIApp

from diffusion_worker.web.health import app_with_probes, health_body, json_response
from diffusion_worker.web.http_io import limit_bodies
from diffusion_worker.web.middleware import Middleware
from diffusion_worker.web.requests.fields import Fields
from diffusion_worker.web.requests.request_params import parse_body
from diffusion_worker.web.serving_state import ServingState
from twolane.process.http_body import read_body

_PATHS = ("/admin/state", "/admin/load", "/admin/unload", "/admin/limits", "/health", "/metrics")
_MAX_BODY_BYTES = 4096


def build_admin(serving_state: ServingState, *, drain_s: float) -> ASGIApp:
    """The ASGI application of the admin port; `drain_s` is the default `timeout_s` of an unload."""
    app = app_with_probes(serving_state, _PATHS)

    @app.get("/admin/state")
    async def state() -> Response:
        """State of the worker and its memory."""
        return json_response(state_body(serving_state))

    @app.post("/admin/load")
    async def load(request: Request) -> Response:
        """Load the weights. On an error the worker stays cold."""
        (await _fields(request)).allow_only(())
        await serving_state.engine.load()
        return json_response(state_body(serving_state))

    @app.post("/admin/unload")
    async def unload(request: Request) -> Response:
        """Unload the weights after running requests finish, at most `timeout_s` seconds later."""
        fields = await _fields(request)
        fields.allow_only(("timeout_s",))
        timeout_s = fields.number("timeout_s", 0.0, 3600.0)
        await serving_state.engine.unload(drain_s if timeout_s is None else timeout_s)
        return json_response(state_body(serving_state))

    @app.post("/admin/limits")
    async def limits(request: Request) -> Response:
        """Set the batch size, up to the value the worker started with. Used by `twolane tune`."""
        fields = await _fields(request)
        fields.allow_only(("max_num_seqs",))
        fields.required("max_num_seqs")
        rows = fields.integer("max_num_seqs", 1, serving_state.engine.max_rows)
        assert rows is not None, "it is required"
        serving_state.engine.limit(rows)
        return json_response(state_body(serving_state))

    return Middleware(limit_bodies(app, serving_state, max_body_bytes=_MAX_BODY_BYTES), serving_state)


def state_body(serving_state: ServingState) -> dict[str, Any]:
    """Health, memory use and model size; sizes are null while no weights are loaded."""
    status, info = serving_state.engine.status(), serving_state.engine.info
    return {
        **health_body(serving_state),
        "kv_bytes": status.kv_bytes,
        "retained_contexts": status.retained_contexts,
        "pressure": status.pressure.name.lower(),
        "parameters": info.parameters if info else None,
        "dtype": info.dtype if info else None,
    }


async def _fields(request: Request) -> Fields:
    """Fields of the body; an empty body is an empty object."""
    body = await read_body(request.receive)
    return parse_body(body) if body else Fields({})
