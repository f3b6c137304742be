"""The applications of the two ports: raw ASGI for health checks and paths that generate, FastAPI for all others.

FastAPI is imported when one of them is first requested.
"""

from collections.abc import Callable, Mapping

from starlette.types import ASGIApp

from gateway import __version__
from gateway.pipeline import Pipeline
from gateway.ports import Clock
from gateway.routing.policy import Policy
from gateway.state.response_store import ResponseStore
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.recent_decisions import RecentDecisions
from gateway.types import Status, Target
from gateway.web.apis.feedback_log import FeedbackLog
from gateway.web.asgi_responses import health_check
from twolane.process.http.dispatch import Dispatch


def public_routes(
    generation: Mapping[str, ASGIApp],
    *,
    policy: Callable[[], Policy],
    status_of: Callable[[Target], Status],
    store: ResponseStore | None,
    feedback: FeedbackLog,
) -> ASGIApp:
    """`generation` are the applications of paths that generate."""

    def make() -> ASGIApp:
        from gateway.web.apis.feedback import add_feedback_route
        from gateway.web.apis.responses.stored import add_response_routes
        from gateway.web.routes import public_app

        app = public_app(policy, status_of)
        add_response_routes(app, store)
        add_feedback_route(app, feedback)
        return app

    return Dispatch({**generation, "/live": health_check(dict), "/health": _health(policy)}, make)


def admin_routes(
    *, policy: Callable[[], Policy], pipeline: Pipeline, clock: Clock, metrics: Metrics, recent: RecentDecisions
) -> ASGIApp:
    """For operators and Prometheus."""

    def make() -> ASGIApp:
        from gateway.web.admin import admin_app

        return admin_app(pipeline=pipeline, clock=clock, metrics=metrics, recent=recent)

    return Dispatch(dict.fromkeys(("/live", "/health"), _health(policy)), make)


def _health(policy: Callable[[], Policy]) -> ASGIApp:
    return health_check(lambda: {"version": __version__, "policy": policy().version})
