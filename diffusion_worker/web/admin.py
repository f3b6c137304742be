"""The admin surface, on a port of its own: look at the worker, bring its weights into memory, let them go, let
fewer requests advance together.

The same keys open it. A request returns when what it asked for is done.
"""

from typing import Any

from fastapi import Request, Response
from starlette.types import ASGIApp

from diffusion_worker.types.status import Pressure
from diffusion_worker.web.health import health_body, json_response, probed_app
from diffusion_worker.web.http_io import read_body
from diffusion_worker.web.middleware import Middleware
from diffusion_worker.web.requests.fields import Fields
from diffusion_worker.web.requests.request_params import parse_body
from diffusion_worker.web.serving_state import ServingState

_PATHS = ("/admin/state", "/admin/load", "/admin/unload", "/admin/limits", "/health", "/metrics")
_MOST_BYTES = 4096  # of a body
# Values of `pressure` in the state: clients read them, so they do not follow the names in the code.
_PRESSURE = {
    Pressure.NONE: "none",
    Pressure.PREFIX_CACHE: "retained",
    Pressure.BATCH: "rows",
    Pressure.ADMISSION: "door",
}


def build_admin(serving_state: ServingState, *, drain_s: float) -> ASGIApp:
    """The whole application; an unload that names no `timeout_s` gives running requests `drain_s` seconds."""
    app = probed_app(serving_state, _PATHS)

    @app.get("/admin/state")
    async def state() -> Response:
        """All that is known at a glance."""
        return json_response(state_body(serving_state))

    @app.post("/admin/load")
    async def load(request: Request) -> Response:
        """Weights into memory. A failure is told and leaves the worker as it was: cold."""
        (await _fields(request)).only(())
        await serving_state.engine.load()
        return json_response(state_body(serving_state))

    @app.post("/admin/unload")
    async def unload(request: Request) -> Response:
        """Weights out of memory, behind what runs."""
        fields = await _fields(request)
        fields.only(("timeout_s",))
        wished_s = fields.number("timeout_s", 0.0, 3600.0)
        await serving_state.engine.unload(drain_s if wished_s is None else wished_s)
        return json_response(state_body(serving_state))

    @app.post("/admin/limits")
    async def limits(request: Request) -> Response:
        """Fewer requests together than the worker started with, or as many again: what `twolane tune` turns."""
        fields = await _fields(request)
        fields.only(("max_num_seqs",))
        fields.required("max_num_seqs")
        rows = fields.whole("max_num_seqs", 1, serving_state.engine.max_rows)
        assert rows is not None, "it is required"
        serving_state.engine.limit(rows)
        return json_response(state_body(serving_state))

    return Middleware(app, serving_state)


def state_body(serving_state: ServingState) -> dict[str, Any]:
    """Health, and what memory has been given to or taken from; sizes are null while nothing is loaded."""
    status, info = serving_state.engine.status(), serving_state.engine.info
    return {
        **health_body(serving_state),
        "kv_bytes": status.kv_bytes,
        "retained_contexts": status.retained_contexts,
        "pressure": _PRESSURE[status.pressure],
        "parameters": info.parameters if info else None,
        "dtype": info.dtype if info else None,
    }


async def _fields(request: Request) -> Fields:
    """No body means: nothing special is asked for."""
    body = await read_body(request.scope, request.receive, _MOST_BYTES)
    return parse_body(body) if body else Fields({})
