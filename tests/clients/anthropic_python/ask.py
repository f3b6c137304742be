"""Ask one question per case with Anthropic's client for Python.

stdin: {"url": ..., "cases": [{"how": ..., "fields": {...}}]}, where `how` is `create`, `stream` (the client accumulates
the events), `parse` (a structured answer), `run` (the client's own loop of tool calls), `count` or `models`.
stdout: one JSON line for each, in order: what an application sees, or {"error": ...}.
"""

import json
import sys
from typing import Any

import anthropic
from anthropic import Anthropic, beta_tool
from pydantic import BaseModel


class City(BaseModel):
    """The structured answer."""

    name: str


@beta_tool
def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name
    """
    return f"sun in {city}"


def main() -> None:
    """Sequential: a mistake in one case must not disturb another."""
    given = json.load(sys.stdin)
    client = Anthropic(base_url=given["url"].removesuffix("/v1"), api_key="k", max_retries=0, timeout=60)
    for case in given["cases"]:
        try:
            seen = answer(client, case["how"], case["fields"])
        except anthropic.APIError as error:
            kind = error.body["error"]["type"] if isinstance(error.body, dict) else None
            seen = {"error": type(error).__name__, "type": kind, "id": getattr(error, "request_id", None)}
        print(json.dumps(seen), flush=True)


def answer(client: Anthropic, how: str, fields: dict[str, Any]) -> dict[str, Any]:
    """What an application sees of one answer."""
    if how == "count":
        return {"tokens": client.messages.count_tokens(**fields).input_tokens}
    if how == "models":
        return {"models": [[model.id, model.display_name] for model in client.models.list()]}
    if how == "parse":
        parsed = client.messages.parse(output_format=City, **fields)
        return {"name": parsed.parsed_output.name if parsed.parsed_output else None}
    if how == "run":
        message = client.beta.messages.tool_runner(tools=[get_weather], **fields).until_done()
        return {"text": "".join(block.text for block in message.content if block.type == "text")}
    if how == "stream":
        with client.messages.stream(**fields) as stream:
            text = "".join(stream.text_stream)
            message = stream.get_final_message()
            request_id = stream.request_id
        assert text == "".join(block.text for block in message.content if block.type == "text")
    else:
        message = client.messages.create(**fields)
        request_id = message._request_id
    return {
        "content": [block.model_dump(exclude_none=True) for block in message.content],
        "stop_reason": message.stop_reason,
        "usage": [message.usage.input_tokens, message.usage.output_tokens],
        "id": request_id,
    }


if __name__ == "__main__":
    main()
