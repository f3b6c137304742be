"""From a request and its task to a plan: whom to ask, in order, and what the answer must pass.

Knows neither health nor load: that is `admit`.
"""

from dataclasses import replace

from gateway.errors import ModelNotFound, NoPrivateTarget
from gateway.routing.policy import Policy, Rule
from gateway.types import Classification, Plan, Query


def choose(policy: Policy, query: Query, classification: Classification, *, wall_s: float, sample: float) -> Plan:
    """The plan of the first route that takes the request, or of the target it names itself.

    `wall_s` are seconds since the epoch, `sample` is uniform in [0, 1) and decides where targets share a route.
    Raises ModelNotFound for a model that is neither an alias nor a target, NoPrivateTarget when a request must stay
    in the cluster and nobody of its route is there.
    """
    choice = _rule_for(policy, query, classification, wall_s).drawn(sample)
    plan = choice.private if query.private else choice.open
    if not plan.candidates:
        raise NoPrivateTarget(f"The request must stay in the cluster, and no target of route {plan.route!r} is there.")
    return _with_deadline(plan, query)


def _rule_for(policy: Policy, query: Query, classification: Classification, wall_s: float) -> Rule:
    if query.model not in policy.aliases:
        rule = policy.direct.get(query.model)
        if rule is None:
            raise ModelNotFound(query.model)
        return rule
    # The loader made sure that the last route takes everything.
    return next(rule for rule in policy.rules if rule.route.when.matches(query, classification, wall_s))


def _with_deadline(plan: Plan, query: Query) -> Plan:
    """Of two deadlines the smaller holds; a request's own shortens what each attempt may take in proportion."""
    wanted_ms, given_ms = query.deadline_ms, plan.deadline_ms
    if wanted_ms is None or (given_ms is not None and given_ms <= wanted_ms):
        return plan
    attempt_ms = plan.attempt_ms
    if attempt_ms is not None and given_ms is not None:
        attempt_ms *= wanted_ms / given_ms
    return replace(plan, deadline_ms=wanted_ms, attempt_ms=attempt_ms)
