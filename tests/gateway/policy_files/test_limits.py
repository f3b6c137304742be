"""The `limits` of a policy: which keys they apply to, and which are refused."""

import pytest

from gateway.errors import PolicyError
from gateway.policy_files.load import parse
from gateway.policy_types import Limit

POLICY = """version: 1
targets: {a: {kind: worker, url: "http://a", model: m, location: in_cluster}}
routes: [{name: default, use: a}]
"""


def limited(limits: str) -> str:
    return POLICY + f"limits: {limits}\n"


def test_a_limit_applies_to_its_keys_and_the_general_limit_to_all_others() -> None:
    policy = parse(
        limited("[{keys: [ann, bob], requests_per_minute: 60}, {max_in_flight: 2, tokens_per_minute: 9}]"), {}
    )
    named = Limit(keys=frozenset({"ann", "bob"}), requests_per_minute=60)
    general = Limit(max_in_flight=2, tokens_per_minute=9)
    assert [policy.limit_of(key) for key in ("ann", "bob", "eve", None)] == [named, named, general, general]


def test_keys_without_a_limit_are_unlimited() -> None:
    policy = parse(limited("[{keys: ann, max_in_flight: 1}]"), {})
    assert policy.limit_of("eve") is None
    assert policy.limit_of(None) is None
    assert parse(POLICY, {}).limit_of("ann") is None


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("[]", "4:1: limits: expected a list of mappings"),
        ("{max_in_flight: 1}", "4:1: limits: expected a list of mappings"),
        ("[{keys: [ann]}]", "set at least one of requests_per_minute"),
        ("[{max_in_flight: 0}]", "limits[0].max_in_flight: must be between 1"),
        ("[{max_in_flight: 1.5}]", "expected a whole number"),
        ("[{request_per_minute: 1}]", "did you mean 'requests_per_minute'?"),
        ("[{keys: ann, max_in_flight: 1}, {keys: [bob, ann], max_in_flight: 2}]", "key 'ann' already has a limit"),
        ("[{max_in_flight: 1}, {max_in_flight: 2}]", "only one limit may omit `keys`"),
    ],
)
def test_an_invalid_limit_is_refused_with_its_position(limits: str, message: str) -> None:
    with pytest.raises(PolicyError) as refused:
        parse(limited(limits), {})
    assert message in str(refused.value)
    assert refused.value.line == 4
