"""Optional modules in C."""

import sys
from types import ModuleType

import pytest

from twolane.process.native import load_native

NAME = "twolane._built_for_a_test"


@pytest.fixture(name="module")
def module_of_version_2(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType(NAME)
    module.VERSION = 2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, NAME, module)
    return module


def test_a_module_of_the_expected_version_is_used(module: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    assert load_native(NAME, VERSION=2) is module
    assert not caplog.records


@pytest.mark.parametrize("expected", [{"VERSION": 3}, {"VERSION": 2, "HASH_BITS": 17}])
@pytest.mark.usefixtures("module")
def test_a_module_of_other_source_is_reported_and_not_used(
    expected: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    assert load_native(NAME, **expected) is None
    assert [(record.levelname, NAME in record.getMessage()) for record in caplog.records] == [("WARNING", True)]


def test_a_module_that_is_not_built_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    assert load_native(NAME, VERSION=2) is None
    assert not caplog.records
