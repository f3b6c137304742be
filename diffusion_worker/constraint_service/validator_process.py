"""The validator process: `python -m diffusion_worker.constraint_service.validator_process LIMIT_S` (protocol:
`pipe_framing`).

A client's regular expression can make Python's `re` backtrack for hours, and jsonschema can be made to search for long;
here that blocks only other validations. A job is a constraint and the text of an answer; its response is the violation,
as JSON.
"""

import json
from collections.abc import Callable
from functools import lru_cache

from diffusion_worker.constraint_service.pipe_framing import run
from diffusion_worker.constraints.schema.validation import make_validator
from diffusion_worker.constraints.spec import Constraint


def validation_job(constraint: Constraint, text: str) -> bytes:
    """The job that validates a text."""
    return json.dumps(text).encode() + b"\n" + constraint.content()


def work(content: bytes) -> bytes:
    """Execute one job."""
    text, _, constraint = content.partition(b"\n")
    return json.dumps(_validator(constraint)(json.loads(text))).encode()


@lru_cache(maxsize=64)
def _validator(constraint: bytes) -> Callable[[str], str | None]:
    return make_validator(Constraint(**json.loads(constraint)))


if __name__ == "__main__":
    run(work)
