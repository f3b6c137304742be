"""Syntax trees are let go after each file of tests."""

import gc
from collections.abc import Iterator

import pytest

from tests.structure.syntax_trees import nodes, parsed, statements, text_of


@pytest.fixture(scope="module", autouse=True)
def trees() -> Iterator[None]:
    """A million nodes: collections would traverse them while they are made, and after every later test."""
    gc.disable()
    yield
    for read in (text_of, parsed, statements, nodes):
        read.cache_clear()
    gc.enable()
