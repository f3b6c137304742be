"""Prompts of the demo, in the wording the bundled checkpoint was trained on, and request parameters."""

from typing import Any, Final

ORDER_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "name": {"type": ["string", "null"]},
        "qty": {"type": "integer"},
        "item": {"type": "string"},
        "day": {"type": ["string", "null"]},
    },
    "required": ["name", "qty", "item", "day"],
    "additionalProperties": False,
}
AS_ORDER: Final = {
    "seed": 1,
    "max_tokens": 96,
    "response_format": {"type": "json_schema", "json_schema": {"name": "order", "schema": ORDER_SCHEMA}},
}
SHORT: Final = {"seed": 1, "max_tokens": 64}
GREEDY: Final = {
    "seed": 1,
    "max_tokens": 40,
    "temperature": 0,
}  # a small model needs temperature 0
# Any answer of the quality model will do, and an edit of the fast lane, which the request also gets, has 24 tokens.
BRIEF: Final = {**GREEDY, "max_tokens": 28}
EDIT: Final = {"x-twolane-task": "edit"}
PRIVATE: Final = {"x-twolane-private": "true"}

ANNA: Final = "Extract the order as JSON: hi, i need 3 red lamp for anna on monday"
ANNAS_ORDER: Final = {"name": "anna", "qty": 3, "item": "red lamp", "day": "monday"}
SLOPPY: Final = "Clean up this commit subject: Fixed brokn token in api"
ADD: Final = "def add(a, b):\n    # Return the sum of a and b.\n    return "
APPLY: Final = """\
<instruction>Write the code again with the update.</instruction>
<code>port = 80
host = a</code>
<update>port = 81</update>"""
APPLIED: Final = "port = 81\nhost = a"
DAYS: Final = "monday tuesday wednesday thursday friday saturday sunday today tomorrow none".split()
CORRECTED: Final = "please send 8 no wait 3 red lamp to anna on monday"
QUESTIONS: Final = (
    {"type": "choice", "name": "day", "instructions": "Which day?", "choices": [{"value": day} for day in DAYS]},
    {"type": "predicate", "name": "angry", "instructions": "Is the customer angry?", "min_confidence": 0.9},
)
FRANCE: Final = "What is the capital of France? Answer in one sentence."
