"""Run an agent with a tool with OpenAI's Agents SDK.

stdin: {"url": ..., "cases": [{"how": ..., "model": ..., "api": "responses" or "chat"}]}, where `how` is `run` or
`stream` (a loop of steps with a tool), `object` (a typed answer), `handoff` (a second agent answers), `again` (a second
turn with the items of the first) or `chained` (a second turn that names the first response). stdout: one JSON line for
each, in order: what an application sees, or {"error": ...}.
"""

import asyncio
import json
import sys
from typing import Any

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel


class Weather(BaseModel):
    """The typed answer."""

    city: str
    degrees: int


@function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sun in {city}"


async def main() -> None:
    """Sequential: a mistake in one case must not disturb another."""
    given = json.load(sys.stdin)
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=given["url"], api_key="k", max_retries=0, timeout=60)
    for case in given["cases"]:
        kind = OpenAIResponsesModel if case["api"] == "responses" else OpenAIChatCompletionsModel
        model = kind(model=case.get("model", "auto"), openai_client=client)
        try:
            seen = await answer(case["how"], model)
        except Exception as error:  # whatever an application would have to catch
            seen = {"error": type(error).__name__, "text": str(error)}
        print(json.dumps(seen), flush=True)


async def answer(how: str, model: Any) -> dict[str, Any]:
    """What an application sees."""
    agent = Agent(name="Forecaster", instructions="Be brief.", model=model, tools=[weather])
    if how == "object":
        made = await Runner.run(Agent(name="Typed", model=model, output_type=Weather), "Rome?")
        return {"object": made.final_output.model_dump()}
    if how == "handoff":
        front = Agent(name="Front", instructions="Hand off.", model=model, handoffs=[agent])
        made = await Runner.run(front, "Rome or Oslo?")
        return {"text": made.final_output, "agent": made.last_agent.name}
    if how == "stream":
        streamed = Runner.run_streamed(agent, "Rome or Oslo?")
        pieces = [event async for event in streamed.stream_events()]
        deltas = [
            event.data.delta
            for event in pieces
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
        ]
        return {**seen_of(streamed), "streamed": "".join(deltas)}
    settings = ModelSettings(store=True if how == "chained" else None)
    agent = agent.clone(model_settings=settings)
    made = await Runner.run(agent, "Rome or Oslo?")
    if how == "chained":
        made = await Runner.run(agent, "And why?", previous_response_id=made.last_response_id)
    if how == "again":
        made = await Runner.run(agent, [*made.to_input_list(), {"role": "user", "content": "And why?"}])
    return seen_of(made)


def seen_of(made: Any) -> dict[str, Any]:
    """The answer, the results of tools, and the tokens of a run."""
    results = [item.output for item in made.new_items if item.type == "tool_call_output_item"]
    return {"text": made.final_output, "results": results, "tokens": made.context_wrapper.usage.total_tokens}


if __name__ == "__main__":
    asyncio.run(main())
