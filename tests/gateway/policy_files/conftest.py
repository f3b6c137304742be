"""A small valid policy, and a way to break it in one place."""

from collections.abc import Callable

import pytest

from gateway.errors import PolicyError
from gateway.policy_files.load import parse
from gateway.routing.policy import Policy

VALID = """\
version: 1
aliases: [small]
targets:
  fast:
    kind: worker
    url: "http://127.0.0.1:8001"
    model: diffusion
    location: in_cluster
    max_in_flight: 16
  quality:
    kind: openai
    url: "https://example.com/v1/"
    model: big
    engine: vllm
    location: external
    key_env: QUALITY_KEY
    slo: {p95_ms: 9000}
routes:
  - name: edits
    when: {task: [edit, autocomplete], confidence: ">= 0.6"}
    use: fast
    slo: {p95_ms: 400, window_s: 60}
    min_confidence: 0.8
    deadline_ms: 3000
    validate: {schema: request, buffer: full}
    fall_back: [quality]
  - name: default
    use: quality
"""


@pytest.fixture(name="policy_with")
def make_policy_with() -> Callable[..., Policy]:
    """The valid policy with `old` replaced by `new` (which must change it)."""

    def build(old: str = "", new: str = "", **environment: str) -> Policy:
        assert old in VALID
        return parse(VALID.replace(old, new, 1) if old else VALID, environment, file="p.yaml")

    return build


@pytest.fixture(name="refused")
def make_refused(policy_with: Callable[..., Policy]) -> Callable[..., PolicyError]:
    """The error that the changed policy is refused with."""

    def build(old: str, new: str, **environment: str) -> PolicyError:
        with pytest.raises(PolicyError) as caught:
            policy_with(old, new, **environment)
        return caught.value

    return build
