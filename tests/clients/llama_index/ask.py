"""Use LlamaIndex's models for OpenAI and for servers like it.

stdin: {"url": ..., "cases": [{"how": ..., "api": "like", "chat" or "responses"}]}, where `how` is `chat`, `stream`,
`complete`, `tools` (a loop of steps) or `object` (a typed answer). stdout: one JSON line for each, in order: what an
application sees, or {"error": ...}.
"""

import asyncio
import json
import sys
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAI, OpenAIResponses
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Weather(BaseModel):
    """The typed answer."""

    city: str
    degrees: int


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sun in {city}"


async def main() -> None:
    """Sequential: a mistake in one case must not disturb another."""
    given = json.load(sys.stdin)
    common: Any = {"api_base": given["url"], "api_key": "k", "max_retries": 0, "timeout": 60}
    models = {
        "like": OpenAILike(model="auto", is_chat_model=True, is_function_calling_model=True, **common),
        "text": OpenAILike(model="auto", is_chat_model=False, **common),
        "chat": OpenAI(model="gpt-4o", **common),
        "responses": OpenAIResponses(model="gpt-4o", **common),
    }
    for case in given["cases"]:
        try:
            seen = await answer(case["how"], models[case["api"]])
        except Exception as error:  # whatever an application would have to catch
            seen = {"error": type(error).__name__, "text": str(error)}
        print(json.dumps(seen), flush=True)


async def answer(how: str, model: Any) -> dict[str, Any]:
    """What an application sees."""
    asked = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Hi")]
    if how == "chat":
        return {"text": (await model.achat(asked)).message.content}
    if how == "stream":
        return {"text": "".join([part.delta async for part in await model.astream_chat(asked)])}
    if how == "complete":
        return {"text": (await model.acomplete("Rome is")).text}
    if how == "object":
        made = await model.as_structured_llm(Weather).achat([ChatMessage(role="user", content="Rome?")])
        return {"object": made.raw.model_dump()}
    agent = FunctionAgent(tools=[weather], llm=model, system_prompt="Be brief.")
    made = await agent.run("Rome or Oslo?")
    return {"text": made.response.content, "results": [str(call.tool_output.content) for call in made.tool_calls]}


if __name__ == "__main__":
    asyncio.run(main())
