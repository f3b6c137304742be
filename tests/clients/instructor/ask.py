"""Ask for typed answers with instructor.

stdin: {"url": ..., "cases": [{"mode": ..., "how": ...}]}, where `mode` is one of instructor's and `how` is `create`,
`partial` (the object as it grows), `iterable` (several objects) or `retry` (the first answer is invalid). stdout: one
JSON line for each, in order: {"object": ...} or {"error": ...}.
"""

import json
import sys
from typing import Any

import instructor
from openai import OpenAI
from pydantic import BaseModel, field_validator


class Weather(BaseModel):
    """The typed answer."""

    city: str
    degrees: int

    @field_validator("degrees")
    @classmethod
    def is_possible(cls, degrees: int) -> int:
        """A rule that no schema tells the model."""
        if degrees > 100:
            raise ValueError("degrees must be possible")
        return degrees


def main() -> None:
    """Sequential: a mistake in one case must not disturb another."""
    given = json.load(sys.stdin)
    for case in given["cases"]:
        client = OpenAI(base_url=given["url"], api_key="k", max_retries=0, timeout=60)
        try:
            seen = answer(instructor.from_openai(client, mode=instructor.Mode[case["mode"]]), case["how"])
        except Exception as error:  # whatever an application would have to catch
            seen = {"error": type(error).__name__, "text": str(error)}
        print(json.dumps(seen), flush=True)


def answer(client: Any, how: str) -> dict[str, Any]:
    """What an application sees."""
    asked: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": f"{how}: Rome?"}]}
    if how == "partial":
        parts = list(client.create_partial(response_model=Weather, **asked))
        return {"object": parts[-1].model_dump(), "is_growing": len(parts) > 1}
    if how == "iterable":
        return {"object": [each.model_dump() for each in client.create_iterable(response_model=Weather, **asked)]}
    return {"object": client.create(response_model=Weather, max_retries=2, **asked).model_dump()}


if __name__ == "__main__":
    main()
