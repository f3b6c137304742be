"""Use litellm's SDK with the gateway as a server with OpenAI's, or with Anthropic's API.

stdin: {"url": ..., "cases": [{"how": ...}]}, where `how` is `chat`, `stream`, `tools` (a loop of steps), `object` (a
typed answer), `text` (text completion), `responses`, `responses_stream`, `embed`, `messages` or `messages_stream`
(Anthropic's API), or `unknown` (a model that does not exist). stdout: one JSON line for each, in order: what an
application sees, or {"error": ...}.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # without a look into the network

import litellm
from pydantic import BaseModel

litellm.suppress_debug_info = True
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Weather(BaseModel):
    """The typed answer."""

    city: str
    degrees: int


def main() -> None:
    """Sequential: a mistake in one case must not disturb another."""
    given = json.load(sys.stdin)
    for case in given["cases"]:
        try:
            seen = answer(case["how"], given["url"])
        except Exception as error:  # whatever an application would have to catch
            seen = {"error": type(error).__name__, "text": str(error)}
        print(json.dumps(seen), flush=True)


def answer(how: str, url: str) -> dict[str, Any]:
    """What an application sees."""
    openai: Any = {"model": "openai/auto", "api_base": url, "api_key": "k", "num_retries": 0, "timeout": 60}
    anthropic: Any = {**openai, "model": "anthropic/claude-x", "api_base": url.removesuffix("/v1")}
    hi = [{"role": "user", "content": "Hi"}]
    calls: dict[str, Callable[[], dict[str, Any]]] = {
        "chat": lambda: whole(litellm.completion(messages=hi, **openai)),
        "unknown": lambda: whole(litellm.completion(messages=hi, **{**openai, "model": "openai/unknown"})),
        "stream": lambda: streamed(litellm.completion(messages=hi, stream=True, **openai)),
        "messages": lambda: whole(litellm.completion(messages=hi, **anthropic)),
        "messages_stream": lambda: streamed(litellm.completion(messages=hi, stream=True, **anthropic)),
        "tools": lambda: loop(openai),
    }
    return calls[how]() if how in calls else beyond_chat(how, openai)


def beyond_chat(how: str, common: Any) -> dict[str, Any]:
    """The other calls of the SDK."""
    if how == "object":
        made = litellm.completion(messages=[{"role": "user", "content": "Hi"}], response_format=Weather, **common)
        return {"object": json.loads(made.choices[0].message.content)}
    if how == "text":
        made = litellm.text_completion(prompt="Rome is", **{**common, "model": "text-completion-openai/auto"})
        return {"text": made.choices[0].text}
    if how == "responses":
        made = litellm.responses(input="Hi", **common)
        return {"text": made.output_text, "tokens": made.usage.total_tokens}
    if how == "responses_stream":
        events = list(litellm.responses(input="Hi", stream=True, **common))
        return {"text": "".join(e.delta for e in events if e.type == "response.output_text.delta")}
    made = litellm.embedding(input=["Rome", "Oslo"], **{**common, "model": "openai/text-embedding-3-small"})
    return {"vectors": [each["embedding"] for each in made.data]}


def whole(made: Any) -> dict[str, Any]:
    """A text and its tokens."""
    return {"text": made.choices[0].message.content, "tokens": made.usage.total_tokens}


def streamed(parts: Any) -> dict[str, Any]:
    """The text of a stream."""
    return {"text": "".join(part.choices[0].delta.content or "" for part in parts if part.choices)}


def loop(common: Any) -> dict[str, Any]:
    """Call tools until the model answers."""
    messages: list[Any] = [{"role": "user", "content": "Rome or Oslo?"}]
    results = []
    while (message := litellm.completion(messages=messages, tools=[TOOL], **common).choices[0].message).tool_calls:
        messages.append(message)
        for call in message.tool_calls:
            results.append(f"sun in {json.loads(call.function.arguments)['city']}")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": results[-1]})
    return {"text": message.content, "results": results}


if __name__ == "__main__":
    main()
