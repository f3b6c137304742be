"""Use LangChain's models for OpenAI.

stdin: {"url": ..., "cases": [{"how": ..., "api": "chat" or "responses"}]}, where `how` is `invoke`, `stream`, `tools`
(a loop of steps), `chained` (the same, with stored responses and their ids in place of earlier messages), a way to ask
for a typed answer (`json_schema`, `function_calling`, `json_mode`), `complete` (text completion), `embed` (embeddings)
or `unknown` (a model that does not exist). stdout: one JSON line for each, in order: what an application sees, or
{"error": ...}.
"""

import json
import sys
from typing import Any

from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel

TYPED = ("json_schema", "function_calling", "json_mode")


class Weather(BaseModel):
    """The typed answer."""

    city: str
    degrees: int


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sun in {city}"


def main() -> None:
    """Sequential: a mistake in one case must not disturb another."""
    given = json.load(sys.stdin)
    common = {"base_url": given["url"], "api_key": "k", "max_retries": 0, "timeout": 60}
    for case in given["cases"]:
        try:
            seen = answer(case, common)
        except Exception as error:  # whatever an application would have to catch
            seen = {"error": type(error).__name__, "text": str(error)}
        print(json.dumps(seen), flush=True)


def answer(case: dict[str, Any], common: Any) -> dict[str, Any]:
    """What an application sees."""
    how = case["how"]
    if how == "complete":
        return {"text": OpenAI(model="auto", **common).invoke("Rome is")}
    if how == "embed":
        embedder = OpenAIEmbeddings(model="text-embedding-3-small", check_embedding_ctx_length=False, **common)
        return {"vectors": embedder.embed_documents(["Rome", "Oslo"])}
    name = "unknown" if how == "unknown" else "auto"
    model = ChatOpenAI(model=name, use_responses_api=case["api"] == "responses", stream_usage=True, **common)
    if how in TYPED:
        return {"object": model.with_structured_output(Weather, method=how).invoke("Rome? As JSON.").model_dump()}
    if how == "chained":
        return loop(model.model_copy(update={"store": True, "use_previous_response_id": True}))
    if how == "tools":
        return loop(model)
    if how == "stream":
        parts = list(model.stream("Hi"))
        whole = parts[0]
        for part in parts[1:]:
            whole += part
        return {"text": whole.text, "tokens": (whole.usage_metadata or {}).get("total_tokens")}
    made = model.invoke("Hi")
    return {"text": made.text, "tokens": (made.usage_metadata or {}).get("total_tokens")}


def loop(model: Any) -> dict[str, Any]:
    """Call tools until the model answers."""
    bound = model.bind_tools([weather])
    messages: list[Any] = [HumanMessage("Rome or Oslo?")]
    results = []
    while (made := bound.invoke(messages)).tool_calls:
        messages.append(made)
        for call in made.tool_calls:
            messages.append(weather.invoke(call))
            results.append(messages[-1].content)
    return {"text": made.text, "results": results}


if __name__ == "__main__":
    main()
