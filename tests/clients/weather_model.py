"""A server with chat completions, text completions and embeddings only, before which the tests run client libraries.

It calls the tool `weather` for two cities, hands off if it can, gives a typed answer if it is asked for one, and says a
sentence otherwise.
"""

import json
from typing import Any, Final

from aiohttp import web

from tests.gateway.test_responses import Model, call

SENTENCE: Final = "Rome is warmer."
CITIES: Final = ("Rome", "Oslo")
RESULTS: Final = [f"sun in {city}" for city in CITIES]
OBJECT: Final = {"city": "Rome", "degrees": 20}
TOO_HOT: Final = {"city": "Rome", "degrees": 555}
VECTORS: Final = [[0.25, 0.5], [1.0, -0.5]]
POLICY: Final = """
version: 1
aliases: ["gpt-*", "claude-*", "text-embedding-*"]
targets:
  big: {kind: openai, engine: openai, url: "%s", model: m, location: external}
  embedder: {kind: openai, capabilities: [embeddings], url: "%s", model: e, location: external}
routes:
  - {name: embeddings, when: {model: "text-embedding-*"}, use: embedder}
  - {name: default, use: big}
"""


def policy(url: str) -> str:
    """One server for everything."""
    return POLICY % (url, url)


class WeatherModel:
    """`bodies` are the chats that it was asked for. It reports its reasoning, as servers of open models do."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        """Whole or streamed, as requested."""
        if request.path.endswith("/embeddings"):
            return web.json_response(_embeddings(body))
        self.bodies.append(body)
        model = Model()
        model.messages = [{"reasoning_content": "Hm.", **message_for(body)}]
        return await model.answer(request, body)


def message_for(body: dict[str, Any]) -> dict[str, Any]:
    """What it says next."""
    names = [tool["function"]["name"] for tool in body.get("tools", ())]
    done = sum(message["role"] == "tool" for message in body["messages"])
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        return _calls(choice["function"]["name"], typed_for(body))
    if names and names[0].startswith("transfer"):
        return _calls(names[0], {})
    if "weather" in names and done < len(CITIES):
        return _calls("weather", {"city": CITIES[done]})
    if names and "weather" not in names:
        return _calls(names[0], typed_for(body))
    if "response_format" in body:
        return {"content": json.dumps(typed_for(body))}
    if "```json" in json.dumps(body["messages"]):
        return {"content": f"```json\n{json.dumps(typed_for(body))}\n```"}
    return {"content": SENTENCE}


def typed_for(body: dict[str, Any]) -> dict[str, Any]:
    """The object that a typed answer has; in a list where several are asked for, and too hot at first for `retry`."""
    text = json.dumps(body)
    if "IterableWeather" in text:
        return {"tasks": [OBJECT, OBJECT]}
    is_first = "retry: " in text and str(TOO_HOT["degrees"]) not in text
    return TOO_HOT if is_first else OBJECT


def _calls(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"tool_calls": [call(name, json.dumps(arguments), f"call_{name}_{len(arguments)}_{arguments.get('city')}")]}


def _embeddings(body: dict[str, Any]) -> dict[str, Any]:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(VECTORS)]
    usage = {"prompt_tokens": 2, "total_tokens": 2}
    return {"object": "list", "data": data[: len(body["input"])], "model": "e", "usage": usage}
