"""A route decides in which mode its workers decode, without targets written for it."""

import re

import pytest

from gateway.errors import PolicyError
from gateway.policy_files.load import parse
from gateway.routing.policy import Policy

TARGETS = """\
version: 1
targets:
  fast: {kind: worker, url: "http://a", model: d, location: in_cluster, max_in_flight: 4, diffusion: {steps: 4},
    slo: {p95_ms: 900}}
  pool: {kind: worker, urls: ["http://b", "http://c"], model: "d:autoregressive", location: in_cluster}
  quality: {kind: openai, url: "http://q", model: m, engine: vllm, location: external}
routes:
"""


def policy(*routes: str) -> Policy:
    return parse(TARGETS + "".join(f"  - {{{route}}}\n" for route in (*routes, "name: last, use: quality")), {})


def lanes(found: Policy) -> list[tuple[str, str]]:
    return [(lane.target.name, lane.target.model) for lane in found.rules[0].open.candidates]


@pytest.mark.parametrize(
    ("decoding", "wanted"),
    [
        ("diffusion", [("fast", "d")]),
        ("verified", [("fast:verified", "d:verified")]),
        ("autoregressive", [("fast:autoregressive", "d:autoregressive")]),
    ],
)
def test_the_workers_in_use_decode_in_the_mode_of_the_route(decoding: str, wanted: list[tuple[str, str]]) -> None:
    """Fallbacks keep their own, so that a worker may fall back to itself in another mode."""
    found = policy(f"name: a, when: {{task: edit}}, use: fast, decoding: {decoding}, fall_back: [pool, quality]")
    assert lanes(found) == [*wanted, ("pool", "d:autoregressive"), ("quality", "m")]
    itself = policy("name: a, when: {task: edit}, use: fast, decoding: verified, fall_back: [fast]")
    assert lanes(itself) == [("fast:verified", "d:verified"), ("fast", "d")]


def test_such_a_target_has_the_settings_of_the_worker_and_a_name_of_its_own() -> None:
    """It is addressed like any other; denoising parameters stay with diffusion."""
    found = policy("name: a, when: {task: edit}, use: fast, decoding: verified, min_confidence: {fast: 0.7}")
    target = found.targets["fast:verified"]
    assert (target.url, target.max_in_flight, target.diffusion) == ("http://a", 4, ())
    assert found.targets["fast"].diffusion == (("steps", 4),)
    [lane] = found.rules[0].open.candidates
    assert (lane.min_confidence, lane.slo and lane.slo.p95_ms) == (0.7, 900)
    [direct] = found.direct["fast:verified"].open.candidates
    assert (direct.target, direct.slo and direct.slo.p95_ms) == (target, 900)


def test_endpoints_and_shares_decode_in_that_mode() -> None:
    found = policy("name: a, when: {task: edit}, use: {pool: 9, fast: 1, quality: 1}, decoding: diffusion")
    firsts = [split.open.candidates[0] for split in found.rules[0].splits]
    assert [first.target.name for first in firsts] == ["pool:diffusion", "fast", "quality"]
    endpoints = [each.target for each in firsts[0].endpoints]
    assert [(each.name, each.pool, each.model, each.url) for each in endpoints] == [
        ("pool:diffusion/1", "pool:diffusion", "d", "http://b"),
        ("pool:diffusion/2", "pool:diffusion", "d", "http://c"),
    ]
    assert {each.name for each in endpoints} <= {each.name for each in found.endpoints}


@pytest.mark.parametrize(
    ("route", "message"),
    [
        ("use: quality, decoding: verified", "decoding: requires a target of kind worker in `use`"),
        ("use: fast, decoding: verifed", "did you mean 'verified'"),
        ("use: fast, decoding: diffusion, fall_back: [fast]", "target 'fast' cannot fall back to itself"),
    ],
)
def test_a_mode_that_changes_nothing_is_refused(route: str, message: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(message)):
        policy(f"name: a, when: {{task: edit}}, {route}")


def test_a_name_that_is_taken_is_refused() -> None:
    other = '  "fast:verified": {kind: worker, url: "http://x", model: d, location: external}'
    text = TARGETS.replace("routes:", f"{other}\nroutes:")
    with pytest.raises(PolicyError, match="creates a target 'fast:verified', but another one has this name"):
        parse(text + "  - {name: last, use: fast, decoding: verified}\n", {})


def test_an_alias_with_its_name_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"aliases\[0\]: 'fast:verified' is the name of a target"):
        parse('aliases: "fast:verified"\n' + TARGETS + "  - {name: last, use: fast, decoding: verified}\n", {})


def test_no_target_is_its_own_fallback_under_the_name_of_the_mode() -> None:
    """The same worker may have an entry in the mode of a route, whose target is then that entry."""
    same = """  "fast:verified": {kind: worker, url: "http://a", model: d, decoding: verified, location: in_cluster,
    max_in_flight: 4}"""
    text = TARGETS.replace("routes:", f"{same}\nroutes:")
    with pytest.raises(PolicyError, match="target 'fast:verified' cannot fall back to itself"):
        parse(text + '  - {name: last, use: fast, decoding: verified, fall_back: ["fast:verified"]}\n', {})
    shared = '  - {name: last, use: {fast: 1, quality: 1}, decoding: verified, fall_back: ["fast:verified", fast]}\n'
    splits = parse(text + shared, {}).rules[0].splits
    assert [[lane.target.name for lane in split.open.candidates] for split in splits] == [
        ["fast:verified", "fast"],
        ["quality", "fast:verified", "fast"],
    ]
