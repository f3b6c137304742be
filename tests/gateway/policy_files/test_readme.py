"""The page that teaches the language tells the truth: its example loads, and every word of the language is on it."""

import re
from pathlib import Path

import pytest

from gateway.core.engines import ENGINES
from gateway.core.policy import Policy
from gateway.policy_files.load import parse
from gateway.terms import Slo
from gateway.words import Capability, Task

README = (Path(__file__).parents[3] / "policies" / "README.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_loads(example: str) -> None:
    assert isinstance(parse(example, {}), Policy)


def test_there_is_an_example() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("word", [*Task, *Capability, *ENGINES, *Slo.__dataclass_fields__])
def test_every_word_of_the_language_is_explained(word: str) -> None:
    assert re.search(rf"\b{word}\b", README)
