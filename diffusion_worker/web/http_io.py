"""HTTP over raw ASGI: headers, responses, limited bodies, and work that is cancelled when the client disconnects."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from diffusion_worker.errors import WorkerError
from diffusion_worker.types.observations import RefusalObserved
from diffusion_worker.web.error_body import BodyTooLarge, Headers, TooManyBytes, problem_of
from diffusion_worker.web.serving_state import ServingState
from twolane.process.http.bounded_bodies import BoundedBodies
from twolane.process.http.byte_budget import BudgetExceededError
from twolane.process.http.limits import OUT_OF_BYTES, Broken
from twolane.process.http_body import BodyTooLargeError, ClientDisconnected

JSON = (b"content-type", b"application/json")


def header(scope: Scope, name: bytes) -> str | None:
    """The value of the first header with this lower-case name."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return None


async def send_response(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """A complete response."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


def limit_bodies(app: ASGIApp, serving_state: ServingState, *, max_body_bytes: int) -> ASGIApp:
    """The application behind a limit of its bodies, and of the bytes that all requests hold together."""

    async def refuse(_: Scope, send: Send, fault: BodyTooLargeError | BudgetExceededError) -> None:
        if isinstance(fault, BudgetExceededError):
            serving_state.meters.observe(RefusalObserved(reason=Broken.BYTE_BUDGET.value))
        await _refuse_body(send, fault)

    return BoundedBodies(app, serving_state.byte_budget, max_body_bytes=max_body_bytes, refuse=refuse)


async def _refuse_body(send: Send, fault: BodyTooLargeError | BudgetExceededError) -> None:
    """The response to a body that is too large, or too large for now."""
    error: WorkerError = BodyTooLarge(str(fault))
    if isinstance(fault, BudgetExceededError):
        error = TooManyBytes(OUT_OF_BYTES.message, retry_after_s=OUT_OF_BYTES.retry_after_s)
    problem = problem_of(error)
    await send_response(send, problem.status, (JSON, *problem.headers), orjson.dumps(problem.body))


async def cancel_on_disconnect(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`; if the client disconnects, cancel it, wait for its clean-up and raise ClientDisconnected."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnected
        working.result()
    finally:
        for task in (working, leaving):
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
