"""The admin port: metrics, recent decisions, and explanations of routing decisions."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway import __version__
from gateway.beyond_chat import CHAT_PATH
from gateway.decision import Decision
from gateway.errors import BodyTooLarge, InvalidField, NotFound
from gateway.pipeline import Pipeline
from gateway.ports import Clock
from gateway.telemetry.decision_json import document_of
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.recent_decisions import RecentDecisions
from gateway.types import Candidate, Health, Verdict
from gateway.web.apis.table import APIS
from gateway.web.auth import DECISIONS
from gateway.web.parse_request import unique_headers
from gateway.web.routes import NO_TELEMETRY, install_error_handlers, json_response
from twolane.process.api_keys import Key, KeyScope

MAX_BODY_BYTES = 4 * 1024 * 1024


def admin_app(*, pipeline: Pipeline, clock: Clock, metrics: Metrics, recent: RecentDecisions) -> FastAPI:
    """For operators and Prometheus; not for applications."""
    app = FastAPI(title="Twolane admin", version=__version__, telemetry=NO_TELEMETRY)
    install_error_handlers(app)
    rendering = asyncio.Lock()

    @app.get("/metrics")
    async def metrics_page(request: Request) -> Response:
        """Prometheus text format, or OpenMetrics on request; rendered in a thread."""
        async with rendering:
            metrics.gauges.refresh()
            body, content_type = await asyncio.to_thread(metrics.render, request.headers.get("accept", ""))
        return Response(body, media_type=content_type)

    @app.get(DECISIONS + "{query_id}")
    async def decision(request: Request, query_id: str) -> Response:
        """The full decision of a recent request: of any with the scope `admin`, otherwise of the key's own."""
        found = recent.get(query_id)
        if found is None or not _may_read(request.scope.get("state", {}).get("key"), found):
            raise NotFound(f"Decision {query_id!r} not found; only recent decisions are kept.")
        return json_response(document_of(found, recent.replica))

    @app.post("/admin/explain")
    async def explain(request: Request) -> Response:
        """Explain a request without sending it: task, plan, and the state of each candidate. `path` is the API that it
        is for, chat completions by default."""
        body = await request.body()
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge(f"The request body exceeds the limit of {MAX_BODY_BYTES} bytes.")
        api = APIS.get(request.query_params.get("path", CHAT_PATH))
        if api is None:
            raise InvalidField(f"'path' must be one of {', '.join(APIS)}.", param="path")
        query = api.read(body, unique_headers(request.scope["headers"]), now_s=clock.now_s(), key=None)
        decision, evaluations = pipeline.explain(query)
        return json_response(
            {
                "policy": decision.policy,
                "task": decision.classification.task,
                "confidence": decision.classification.confidence,
                "evidence": decision.classification.evidence,
                "route": decision.route,
                "private": decision.private,
                "locations": None if decision.locations is None else sorted(decision.locations),
                "needs": sorted(query.needs),
                "candidates": [_candidate(candidate, health, verdict) for candidate, health, verdict in evaluations],
            }
        )

    return app


def _may_read(key: Key | None, decision: Decision) -> bool:
    """Without a keys file there is no key, and everything may be read."""
    return key is None or key.allows(KeyScope.ADMIN) or decision.principal == key.name


def _candidate(candidate: Candidate, health: Health, verdict: Verdict) -> dict[str, Any]:
    return {
        "target": candidate.target.name,
        "location": candidate.target.location,
        "admitted": verdict.admitted,
        "reason": verdict.reason,
        "detail": verdict.detail,
        "lane": health.lane,
        "within_budget": health.within_budget,
        "breaker": health.breaker,
        "in_flight": health.in_flight,
        "residency": health.status.residency,
        "predicted_wait_ms": health.status.predicted_wait_ms,
    }
