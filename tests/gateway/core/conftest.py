"""What these tests are written with: queries and targets that say only what matters."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway.records import Query, Target
from gateway.words import Kind, Place


@pytest.fixture(name="query")
def make_query() -> Callable[..., Query]:
    """A chat request with what the test says of it."""

    def build(**fields: Any) -> Query:
        return Query(**{"request_id": "req_1", "model": "auto", "body": b"{}", "received_s": 0.0, **fields})

    return build


@pytest.fixture(name="target")
def make_target() -> Callable[..., Target]:
    """A target inside the cluster, behind a server of its own."""

    def build(name: str = "fast", **fields: Any) -> Target:
        given = {"kind": Kind.WORKER, "url": f"http://{name}", "model": "m", "place": Place.IN_CLUSTER, **fields}
        return Target(name=name, **given)

    return build
