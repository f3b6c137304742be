"""Loading a policy: keys become compiled targets and routes; comments and layout do not change the hash."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.enums import Buffer, Capability, Grade, Kind, RunawayScope, Task
from gateway.errors import PolicyError
from gateway.policy_files.load import load, parse
from gateway.policy_types import READ_ALONG, Checks, Hedge, Retry, Slo
from gateway.routing.conditions import Comparison
from gateway.routing.gates import Gate
from gateway.routing.policy import Policy
from gateway.types import Query
from tests.gateway.policy_files.conftest import VALID

POLICIES = Path(__file__).parents[3] / "policies"
PolicyWith = Callable[..., Policy]
Refused = Callable[..., PolicyError]


def test_targets_are_read_as_written(policy_with: PolicyWith) -> None:
    targets = policy_with().targets
    fast, quality = targets["fast"], targets["quality"]
    assert (fast.kind, fast.url, fast.model) == (Kind.WORKER, "http://127.0.0.1:8001", "diffusion")
    assert (fast.location, fast.max_in_flight, fast.capabilities) == ("in_cluster", 16, None)
    assert (quality.url, quality.key_env, quality.location) == ("https://example.com", "QUALITY_KEY", "external")
    assert quality.capabilities is not None
    assert Capability.JSON_SCHEMA in quality.capabilities.supported


def test_routes_are_read_as_written(policy_with: PolicyWith) -> None:
    edits, default = (rule.route for rule in policy_with().rules)
    assert edits.when.tasks == {Task.EDIT, Task.AUTOCOMPLETE}
    assert edits.when.confidence == Comparison(sign=">=", number=0.6)
    assert (edits.use, edits.fall_back, edits.gate, edits.deadline_ms) == (
        "fast",
        ("quality",),
        Gate(minimum=0.8),
        3000,
    )
    assert edits.slo == Slo(p95_ms=400, window_s=60)
    assert edits.checks == Checks(buffer=Buffer.FULL)
    assert (default.use, default.fall_back, default.checks) == ("quality", (), READ_ALONG)


def test_extra_attempts_are_read_as_written(policy_with: PolicyWith) -> None:
    policy = policy_with("    deadline_ms: 3000\n", "    hedge: {after: p95, max_share: 0.05}\n")
    assert policy.rules[0].open.candidates[0].hedge == Hedge(max_share=0.05)
    assert policy.rules[0].open.candidates[1].hedge is None
    assert policy_with("max_in_flight: 16", "retry: {}").targets["fast"].retry == Retry(times=1, max_share=0.2)


def test_aliases_are_routed_like_auto(policy_with: PolicyWith) -> None:
    assert policy_with().aliases == {"auto", "small"}


def test_the_classifiers_weights_are_found_beside_the_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(VALID.replace("aliases:", "classifier: {weights: own.npz}\naliases:"))
    assert load(path, {}).weights == tmp_path / "own.npz"
    path.write_text(VALID)
    assert load(path, {}).weights is None


@pytest.mark.parametrize("written", ["{}", "{weights: 3}", "{weights: a, size: 1}", "own.npz"])
def test_a_classifier_section_of_another_form_is_refused(policy_with: PolicyWith, written: str) -> None:
    with pytest.raises(PolicyError, match="classifier"):
        policy_with("aliases:", f"classifier: {written}\naliases:")


def test_a_target_s_own_slo_applies_where_it_is_a_fallback(policy_with: PolicyWith) -> None:
    lanes = {lane.lane: lane.slo for lane in policy_with().lanes}
    assert lanes["edits", "quality"] == Slo(p95_ms=9000)


@pytest.mark.parametrize(
    ("written", "checks"),
    [
        ("{}", Checks()),
        (
            "{buffer: full, repair: syntax, send_error_to_fallback: true}",
            Checks(repair=True, send_error_to_fallback=True),
        ),
        ("{buffer: full, repair: none, send_error_to_fallback: false}", Checks()),
        ("{runaway: all}", Checks(runaway=RunawayScope.ALL)),
        ("{runaway: none}", Checks(runaway=RunawayScope.NONE)),
        ("{schema: none, buffer: none}", None),
        ("{schema: none}", None),
        ("none", None),
    ],
)
def test_checks_are_read_as_written(policy_with: PolicyWith, written: str, checks: Checks | None) -> None:
    policy = policy_with("{schema: request, buffer: full}", written)
    assert policy.rules[0].route.checks == checks
    assert policy.rules[0].open.checks == policy.rules[0].splits[0].private.checks == checks


def test_the_first_bytes_can_be_buffered_without_min_confidence(policy_with: PolicyWith) -> None:
    policy = policy_with(
        "    min_confidence: 0.8\n    deadline_ms: 3000\n    validate: {schema: request, buffer: full}\n",
        "    validate: {buffer: first_bytes, first_bytes: 64}\n",
    )
    assert policy.rules[0].route.checks == Checks(buffer=Buffer.FIRST_BYTES, first_bytes=64)


def test_declared_capabilities_are_best_effort(policy_with: PolicyWith) -> None:
    stated = policy_with("engine: vllm", "capabilities: [chat, stream, json_schema]").targets["quality"].capabilities
    assert stated is not None
    assert stated.supported == {Capability.CHAT, Capability.STREAM, Capability.JSON_SCHEMA}
    assert (stated.json_schema, stated.tools) == (Grade.BEST_EFFORT, Grade.NONE)


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("version: 1", "# a comment\nversion:   1", False),
        ("aliases: [small]", "aliases:\n  - small", False),
        ("p95_ms: 400", "p95_ms: 401", True),
        ("name: edits", "name: edit", True),
    ],
)
def test_the_hash_is_that_of_the_content(policy_with: PolicyWith, old: str, new: str, changes: bool) -> None:
    assert (policy_with(old, new).content_hash != policy_with().content_hash) is changes


def test_the_environment_is_part_of_the_content(policy_with: PolicyWith) -> None:
    one, other = (policy_with("model: big", 'model: "${M:-big}"', M=model) for model in ("", "bigger"))
    assert (one.targets["quality"].model, other.targets["quality"].model) == ("big", "bigger")
    assert one.content_hash == policy_with().content_hash != other.content_hash


@pytest.mark.parametrize("name", ["default.yaml", "demo.yaml"])
def test_the_shipped_policies_load_without_any_environment(name: str) -> None:
    policy = load(POLICIES / name, {})
    assert set(policy.targets) == {"fast", "careful", "quality"}
    assert policy.targets["fast"].url == policy.targets["careful"].url == "http://127.0.0.1:8001"
    assert policy.targets["quality"].url == "http://127.0.0.1:8002"


@pytest.mark.parametrize("name", ["default.yaml", "demo.yaml", "offline.yaml"])
def test_the_shipped_policies_send_tasks_of_the_checkpoint_to_the_fast_lane_and_the_rest_to_quality(name: str) -> None:
    policy = load(POLICIES / name, {})
    assert [(rule.route.name, rule.route.use) for rule in policy.rules] == [
        ("edits", "careful"),
        ("completions", "fast"),
        ("extraction", "careful"),
        ("constrained", "fast"),
        ("puzzles", "fast"),
        ("default", "quality"),
    ]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"nowhere\.yaml: cannot read the file: No such file"):
        load(tmp_path / "nowhere.yaml", {})


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"\xff\xfe", "invalid UTF-8 at byte 0"),
        (b"#" * (1 << 21), "larger than"),
        (b"", "expected a mapping"),
        (b"- a\n", "expected a mapping"),
        (b"version: 1\n", "targets: at least one target is required"),
        (b"version: 1\ntargets: {}\n", "at least one target"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(content)
    with pytest.raises(PolicyError, match=cause):
        load(path, {})


def test_a_policy_needs_a_version_that_is_known(refused: Refused) -> None:
    assert "'version' is missing" in str(refused("version: 1\n", ""))
    assert "version: must be 1, got 2" in str(refused("version: 1", "version: 2"))


def test_an_alias_cannot_be_a_target(refused: Refused) -> None:
    assert str(refused("[small]", "[small, fast]")).startswith(
        "p.yaml:2:18: aliases[1]: 'fast' is the name of a target"
    )


def test_errors_in_a_text_use_the_given_file_name() -> None:
    with pytest.raises(PolicyError, match=r"^from the console:1:1: "):
        parse("versoin: 1\n", {}, file="from the console")


def test_a_compiled_policy_can_be_asked(policy_with: PolicyWith) -> None:
    query = Query(request_id="r", model="auto", body=b"", received_s=0.0)
    assert query.model in policy_with().aliases


def test_a_provider_needs_no_url_and_its_models_fail_independently(
    policy_with: PolicyWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.policy_files.targets.find_spec", lambda _: object())
    written = '    kind: openai\n    url: "https://example.com/v1/"\n    model: big\n'
    alone = policy_with(written, "    kind: litellm\n    model: anthropic/big\n").targets["quality"]
    assert (alone.kind, alone.url, alone.model) == (Kind.LITELLM, "litellm:anthropic/big", "anthropic/big")
    given = policy_with("kind: openai", "kind: litellm").targets["quality"]
    assert given.url == "https://example.com/v1"  # litellm adds the path


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (None, "kind litellm requires the extra `providers`"),
        ("1.82.7", "litellm 1.82.7 is a malicious release, replace it"),
        ("1.82.8", "litellm 1.82.8 is a malicious release, replace it"),
    ],
)
def test_providers_need_a_release_of_litellm_that_is_there_and_honest(
    policy_with: PolicyWith, monkeypatch: pytest.MonkeyPatch, found: str | None, problem: str
) -> None:
    monkeypatch.setattr("gateway.policy_files.targets.find_spec", lambda _: found and object())
    monkeypatch.setattr("gateway.policy_files.targets.version", lambda _: found)
    with pytest.raises(PolicyError, match=problem):
        policy_with("kind: openai", "kind: litellm")
