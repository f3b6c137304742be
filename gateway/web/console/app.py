"""The console's routes: its page, its session, its data, and the playground, which sends requests into the pipeline."""

import asyncio
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway import __version__
from gateway.decision import Decision
from gateway.errors import InvalidField, NotFound, Unauthorized
from gateway.reliability.rate_limits import ANONYMOUS
from gateway.routing.policy import Policy
from gateway.web.console.documents import key_of
from gateway.web.console.guard import API, ROOT, SEND, SESSION
from gateway.web.console.live import MAX_PAGES
from gateway.web.console.pages import asset, page
from gateway.web.console.parts import ConsoleParts
from gateway.web.console.policy_process import Request as PolicyRequest
from gateway.web.console.sessions import cookie_in, set_cookie
from gateway.web.routes import NO_TELEMETRY, install_error_handlers, json_response

SIMULATED: Final = 2000  # decisions of a simulation, the latest


class _Proposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    policy: str
    request: PolicyRequest | None = None
    simulate: bool = False


class _Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str


class Console:
    """The ASGI application below `/console`."""

    def __init__(self, parts: ConsoleParts) -> None:
        self._apis = parts.apis
        self._app = FastAPI(
            title="Twolane console",
            version=__version__,
            telemetry=NO_TELEMETRY,
            openapi_url=None,
            redirect_slashes=False,
        )
        install_error_handlers(self._app)
        _add_page(self._app, parts)
        _add_session(self._app, parts)
        _add_decisions(self._app, parts)
        _add_policy(self._app, parts)
        _add_keys(self._app, parts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request of the playground goes to the API that it names, like one of the public port."""
        if scope["type"] == "http" and scope["path"].startswith(SEND):
            path = scope["path"].removeprefix(SEND.rstrip("/"))
            api = self._apis.get(path)
            if api is not None:
                await api({**scope, "path": path, "raw_path": path.encode()}, receive, send)
                return
        await self._app(scope, receive, send)


def _add_page(app: FastAPI, parts: ConsoleParts) -> None:
    @app.get(ROOT)
    @app.get(f"{ROOT}/")
    async def index() -> Response:
        """The page."""
        return page()

    @app.get(f"{ROOT}/assets/{{name}}")
    async def file(request: Request, name: str) -> Response:
        """A file of the page."""
        return asset(name, takes_gzip="gzip" in request.headers.get("accept-encoding", ""))

    @app.get(f"{API}live")
    async def live(request: Request, after: int = -1, instance: str = "") -> Response:
        """Server-sent events; see `LiveFeed`."""
        if parts.feed.pages >= MAX_PAGES:
            raise InvalidField(f"More than {MAX_PAGES} pages of the console are open.")
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        cookie = cookie_in(request.scope["headers"])
        events = parts.feed.events(after, instance, lambda: parts.sessions is None or bool(parts.sessions.find(cookie)))
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)


def _add_session(app: FastAPI, parts: ConsoleParts) -> None:
    @app.post(SESSION)
    async def sign_in(request: Request) -> Response:
        """Begin a session with an API key that has the scope `admin`."""
        given = _read(await request.body(), _Credentials)
        cookie = parts.sessions.begin(given.key.strip().encode()) if parts.sessions else ""
        if cookie is None:
            raise Unauthorized("The API key is unknown, or lacks the scope `admin`.")
        return _with_cookie(request, cookie)

    @app.delete(SESSION)
    async def sign_out(request: Request) -> Response:
        """End the session."""
        return _with_cookie(request, "")

    @app.get(f"{API}session")
    async def session() -> Response:
        """What the page needs to know first."""
        policy = parts.policy()
        return json_response(
            {
                "version": __version__,
                "policy": policy.version,
                "requires_keys": parts.sessions is not None,
                "targets": [_target(policy, name) for name in policy.targets],
                "aliases": sorted(policy.aliases),
                "routes": [rule.route.name for rule in policy.rules],
                "apis": sorted(parts.apis),
                "trace_url": parts.trace_url,
                "public_url": parts.public_url,
            }
        )


def _target(policy: Policy, name: str) -> dict[str, Any]:
    target = policy.targets[name]
    return {"name": name, "kind": target.kind, "model": target.model, "location": target.location}


def _add_decisions(app: FastAPI, parts: ConsoleParts) -> None:
    @app.get(f"{API}decisions")
    async def decisions() -> Response:
        """The latest decisions."""
        return json_response(await parts.feed.listing())

    @app.get(f"{API}decisions/{{query_id}}")
    async def decision(query_id: str) -> Response:
        """The full record of a decision."""
        record = await parts.history.find(query_id)
        if record is None:
            raise NotFound(f"Decision {query_id!r} not found; only recent decisions are kept.")
        return json_response(record)


def _add_policy(app: FastAPI, parts: ConsoleParts) -> None:
    @app.get(f"{API}policy")
    async def running() -> Response:
        """The text of the policy file, and the version of the running policy."""
        text = await asyncio.to_thread(parts.proposals.running)
        return json_response({"text": text, "version": parts.policy().version, "file": parts.proposals.path.name})

    @app.post(f"{API}policy/compare")
    async def compare(request: Request) -> Response:
        """Compare a proposed policy with the policy file; nothing is changed."""
        given = _read(await request.body(), _Proposal)
        if given.request is not None and given.request.path not in parts.apis:
            raise InvalidField(f"'request.path' must be one of {', '.join(parts.apis)}.", param="request.path")
        log = parts.history.records(SIMULATED) if given.simulate else []
        body = msgspec.to_builtins(given.request)
        return json_response(await parts.proposals.compare(given.policy, request=body, log=log))


def _add_keys(app: FastAPI, parts: ConsoleParts) -> None:
    @app.get(f"{API}keys")
    async def keys() -> Response:
        """Every key with its recent requests and what is left of its limits."""
        decisions = parts.history.decisions()
        known = {key.name: key for key in parts.current_keys()} if parts.current_keys else {}
        names = [*known, *sorted({each.principal or ANONYMOUS for each in decisions} - known.keys())]
        policy = parts.policy()
        shown = []
        by_key: dict[str, list[Decision]] = {name: [] for name in names}
        for each in decisions:
            by_key[each.principal or ANONYMOUS].append(each)
        for name, own in by_key.items():
            limit = policy.limit_of(name or None)
            quota = None if limit is None else parts.usage.quota(name, limit)
            spent = parts.usage.spent(name)
            shown.append(key_of(name, known.get(name), own, limit=limit, quota=quota, spent=spent))
        since = decisions[-1].time_s if decisions else None
        return json_response({"keys": shown, "since_ms": None if since is None else round(since * 1000)})


def _read(body: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as fault:
        raise InvalidField(f"Invalid body: {fault}.") from fault


def _with_cookie(request: Request, value: str) -> Response:
    response = Response(status_code=204)
    is_secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", ""))
    response.headers["set-cookie"] = set_cookie(value, is_secure=is_secure).decode()
    return response
