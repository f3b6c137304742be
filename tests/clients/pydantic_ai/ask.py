"""Run an agent with a tool with Pydantic AI, whose default for OpenAI is the responses API.

stdin: {"url": ..., "cases": [{"how": ..., "api": "default", "responses" or "chat"}]}, where `how` is `run` or `stream`
(a loop of steps with a tool), `again` (a second turn with the messages of the first), `chained` (the same, with stored
responses and their ids in place of earlier messages), or how a typed answer is asked for: `tool`, `native` or
`prompted`, each whole or, with `is_streamed`, as partial objects. stdout: one JSON line for each, in order: what an
application sees, or {"error": ...}.
"""

import asyncio
import json
import os
import sys
from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models import infer_model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

OUTPUTS: Any = {"tool": ToolOutput, "native": NativeOutput, "prompted": PromptedOutput}


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
    os.environ |= {"OPENAI_BASE_URL": given["url"], "OPENAI_API_KEY": "k"}
    for case in given["cases"]:
        try:
            seen = await answer(case, model_of(case.get("api", "default"), given["url"]))
        except Exception as error:  # whatever an application would have to catch
            seen = {"error": type(error).__name__, "text": str(error)}
        print(json.dumps(seen), flush=True)


def model_of(api: str, url: str) -> Any:
    """The model `auto`, as `openai:auto` names it, or with one of the two APIs."""
    if api == "default":
        return infer_model("openai:auto")
    kind: Any = OpenAIResponsesModel if api == "responses" else OpenAIChatModel
    return kind("auto", provider=OpenAIProvider(base_url=url, api_key="k"))


async def answer(case: dict[str, Any], model: Any) -> dict[str, Any]:
    """What an application sees."""
    how = case["how"]
    if how in OUTPUTS:
        typed: Any = Agent(model, output_type=OUTPUTS[how](Weather))
        if not case.get("is_streamed"):
            return {"object": (await typed.run("Rome?")).output.model_dump()}
        async with typed.run_stream("Rome?") as stream:
            parts = [each.model_dump() async for each in stream.stream_output(debounce_by=None)]
        return {"object": parts[-1]}
    settings = {"openai_store": True, "openai_previous_response_id": "auto"} if how == "chained" else {}
    agent: Any = Agent(model, instructions="Be brief.", tools=[weather], model_settings=settings)
    if how == "stream":
        async with agent.run_stream("Rome or Oslo?") as stream:
            text = "".join([piece async for piece in stream.stream_text(delta=True)])
            return {"text": text, **seen_of(stream)}
    made = await agent.run("Rome or Oslo?")
    if how in ("again", "chained"):
        made = await agent.run("And why?", message_history=made.all_messages())
    return {"text": made.output, **seen_of(made)}


def seen_of(made: Any) -> dict[str, Any]:
    """The results of tools, and the tokens of a run."""
    parts = [part for message in made.new_messages() for part in message.parts]
    results = [part.content for part in parts if part.part_kind == "tool-return"]
    usage = made.usage() if callable(made.usage) else made.usage
    return {"results": results, "tokens": usage.input_tokens + usage.output_tokens}


if __name__ == "__main__":
    asyncio.run(main())
