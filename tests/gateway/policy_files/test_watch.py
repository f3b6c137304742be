"""The running policy is replaced whole, and only by one that loads."""

from pathlib import Path

import pytest

from gateway.errors import PolicyError
from gateway.policy_files.watch import Policies

TEXT = """\
version: 1
targets:
  fast: {kind: worker, url: "http://127.0.0.1:1", model: m, place: in_cluster}
routes:
  - {name: default, use: fast}
"""


@pytest.fixture(name="path")
def policy_path(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(TEXT)
    return path


def test_there_is_none_without_a_policy_that_loads(tmp_path: Path) -> None:
    with pytest.raises(PolicyError):
        Policies(tmp_path / "none.yaml", {})


def test_a_good_file_takes_over_and_requests_keep_their_snapshot(path: Path) -> None:
    policies = Policies(path, {})
    snapshot = policies.current
    path.write_text(TEXT.replace("model: m", "model: n"))
    assert policies.reload() is True
    assert policies.current.targets["fast"].model == "n"
    assert snapshot.targets["fast"].model == "m"


def test_a_wrong_file_changes_nothing(path: Path) -> None:
    policies = Policies(path, {})
    before = policies.current
    path.write_text(TEXT.replace("use: fast", "use: slow"))
    with pytest.raises(PolicyError, match="no target called 'slow'"):
        policies.reload()
    assert policies.current is before


def test_the_same_content_is_no_change(path: Path) -> None:
    policies = Policies(path, {})
    path.write_text("# a comment\n" + TEXT)
    assert policies.reload() is False
