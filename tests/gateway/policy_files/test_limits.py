"""The `limits` of a policy: whose they are, and what is no limit at all."""

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


def test_a_key_has_the_limit_that_names_it_and_all_others_the_general_one() -> None:
    policy = parse(
        limited("[{keys: [ann, bob], requests_per_minute: 60}, {max_in_flight: 2, tokens_per_minute: 9}]"), {}
    )
    named = Limit(keys=frozenset({"ann", "bob"}), requests_per_minute=60)
    general = Limit(max_in_flight=2, tokens_per_minute=9)
    assert [policy.limit_of(key) for key in ("ann", "bob", "eve", None)] == [named, named, general, general]


def test_without_a_general_one_nobody_else_is_limited() -> None:
    policy = parse(limited("[{keys: ann, max_in_flight: 1}]"), {})
    assert policy.limit_of("eve") is None
    assert policy.limit_of(None) is None
    assert parse(POLICY, {}).limit_of("ann") is None


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("[]", "4:1: limits: expected a list of mappings"),
        ("{max_in_flight: 1}", "4:1: limits: expected a list of mappings"),
        ("[{keys: [ann]}]", "limits nothing"),
        ("[{max_in_flight: 0}]", "limits[0].max_in_flight: 0 is not between 1"),
        ("[{max_in_flight: 1.5}]", "expected a whole number"),
        ("[{request_per_minute: 1}]", "did you mean 'requests_per_minute'?"),
        ("[{keys: ann, max_in_flight: 1}, {keys: [bob, ann], max_in_flight: 2}]", "key 'ann' has a limit already"),
        ("[{max_in_flight: 1}, {max_in_flight: 2}]", "a second limit without `keys`"),
    ],
)
def test_a_limit_that_says_too_little_or_too_much_is_refused_with_its_place(limits: str, message: str) -> None:
    with pytest.raises(PolicyError) as refused:
        parse(limited(limits), {})
    assert message in str(refused.value)
    assert refused.value.line == 4
