"""Routing: from a request and its task to a plan. Health and load are checked later, by `reliability.admission`."""

from dataclasses import replace

from gateway.errors import ModelNotFound, NoPrivateTarget, NoTargetInLocation, PermissionDenied
from gateway.policy_types import LocationLimit, allowed_by
from gateway.routing.policy import Policy, Rule, TrafficSplit, narrowed
from gateway.types import Classification, Plan, Query
from twolane.process.locations import listed


def plan_request(policy: Policy, query: Query, classification: Classification, *, wall_s: float, sample: float) -> Plan:
    """The plan of the first route that matches the request, or of the target that the request names, at targets in the
    locations that the request is limited to.

    `wall_s` is in seconds since the epoch; `sample` is uniform in [0, 1) and selects from a traffic split.
    Raises ModelNotFound if the model is neither an alias nor a target, NoTargetInLocation or NoPrivateTarget if the
    route has no target where the request may be sent, and PermissionDenied if the API key may not use the model or
    route.
    """
    if query.allowed_models is not None and query.model not in query.allowed_models:
        raise PermissionDenied(f"This API key may not use model {query.model!r}.", param="model")
    rule = _rule_for(policy, query, classification, wall_s)
    split = rule.splits[0] if len(rule.splits) == 1 else rule.pick(sample)
    plan = split.private if query.private else split.open
    if query.locations:
        plan = _limited(plan, query)
    if query.allowed_routes is not None and plan.route not in query.allowed_routes:
        raise PermissionDenied(f"This API key may not use route {plan.route!r}.", param="model")
    if not plan.candidates:
        raise _no_target(policy, query, rule, split)
    return plan if query.deadline_ms is None else _with_deadline(plan, query.deadline_ms)


def no_plan(policy: Policy, query: Query) -> Plan:
    """The plan of a request without a route, for its decision."""
    locations = allowed_by(query.locations)
    return Plan(policy=policy.version, route="", candidates=(), private=query.private, locations=locations)


def _limited(plan: Plan, query: Query) -> Plan:
    allowed = allowed_by(query.locations)
    return plan if allowed is None else narrowed(plan, allowed)


def _no_target(policy: Policy, query: Query, rule: Rule, split: TrafficSplit) -> NoTargetInLocation:
    """Names every limit, so that the client sees which one to change."""
    is_private = query.private or rule.route.private
    limits = list(query.locations)
    if rule.route.locations is not None:
        limits.append(LocationLimit("the route", rule.route.locations))
    if is_private:
        limits.append(LocationLimit("private requests", policy.private_locations))
    allowed = allowed_by(limits) or frozenset()
    where = f"has no target in {listed(allowed)}" if allowed else "cannot take it: no location satisfies all limits"
    stated = "; ".join(f"{limit.source}: {listed(limit.allowed)}" for limit in limits)
    text = f"The request is limited to some locations ({stated}), and route {rule.route.name!r} {where}."
    if is_private and not split.private.candidates:
        return NoPrivateTarget(text, retryable=False)
    return NoTargetInLocation(text, retryable=False)


def _rule_for(policy: Policy, query: Query, classification: Classification, wall_s: float) -> Rule:
    if query.model not in policy.aliases:
        rule = policy.direct.get(query.model)
        if rule is not None:
            return rule
        if not policy.is_routed(query.model):
            raise ModelNotFound(query.model)
    possible, certain = policy.rules_of[classification.task]
    for rule in possible:
        if rule.route.when.matches(query, classification, wall_s):
            return rule
    return certain


def _with_deadline(plan: Plan, request_ms: float) -> Plan:
    """The plan with the shorter deadline. A shorter deadline of the request scales the attempt limit down with it."""
    route_ms = plan.deadline_ms
    if route_ms is not None and route_ms <= request_ms:
        return plan
    patience_ms = plan.silence_limit_ms
    attempt_ms = plan.attempt_ms
    if attempt_ms is not None and route_ms is not None:
        attempt_ms *= request_ms / route_ms
    return replace(plan, deadline_ms=request_ms, attempt_ms=attempt_ms, patience_ms=patience_ms)
