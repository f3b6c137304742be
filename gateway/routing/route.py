"""Routing: from a request and its task to a plan. Health and load are checked later, by `reliability.admission`."""

from dataclasses import replace

from gateway.errors import ModelNotFound, NoPrivateTarget, PermissionDenied
from gateway.routing.policy import Policy, Rule
from gateway.types import Classification, Plan, Query


def plan_request(policy: Policy, query: Query, classification: Classification, *, wall_s: float, sample: float) -> Plan:
    """The plan of the first route that matches the request, or of the target that the request names.

    `wall_s` is in seconds since the epoch; `sample` is uniform in [0, 1) and selects from a traffic split.
    Raises ModelNotFound if the model is neither an alias nor a target, and NoPrivateTarget if the request must stay in
    the cluster and the route has no target there, and PermissionDenied if the API key may not use the model or route.
    """
    if query.allowed_models is not None and query.model not in query.allowed_models:
        raise PermissionDenied(f"This API key may not use model {query.model!r}.", param="model")
    split = _rule_for(policy, query, classification, wall_s).pick(sample)
    plan = split.private if query.private else split.open
    if query.allowed_routes is not None and plan.route not in query.allowed_routes:
        raise PermissionDenied(f"This API key may not use route {plan.route!r}.", param="model")
    if not plan.candidates:
        text = f"The request must stay in the cluster, but route {plan.route!r} has no target there."
        raise NoPrivateTarget(text, retryable=False)
    return _with_deadline(plan, query)


def _rule_for(policy: Policy, query: Query, classification: Classification, wall_s: float) -> Rule:
    if query.model not in policy.aliases:
        rule = policy.direct.get(query.model)
        if rule is not None:
            return rule
        if not policy.is_routed(query.model):
            raise ModelNotFound(query.model)
    last = policy.rules[-1]  # the loader guarantees that it matches everything
    for rule in policy.rules:
        if rule is last or rule.route.when.matches(query, classification, wall_s):
            return rule
    raise AssertionError("a policy has at least one route")


def _with_deadline(plan: Plan, query: Query) -> Plan:
    """The plan with the shorter deadline. A shorter deadline of the request scales the attempt limit down with it."""
    request_ms, route_ms = query.deadline_ms, plan.deadline_ms
    if request_ms is None or (route_ms is not None and route_ms <= request_ms):
        return plan
    patience_ms = plan.silence_limit_ms
    attempt_ms = plan.attempt_ms
    if attempt_ms is not None and route_ms is not None:
        attempt_ms *= request_ms / route_ms
    return replace(plan, deadline_ms=request_ms, attempt_ms=attempt_ms, patience_ms=patience_ms)
