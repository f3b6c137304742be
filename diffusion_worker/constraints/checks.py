"""The final check: a whole answer against its schema, with jsonschema and without fetching anything.

It shares no code with the automaton, so what both accept is valid by two independent readings of the schema.
"""

import json
from typing import Any

import jsonschema
import jsonschema_specifications
from jsonschema.validators import validator_for

from diffusion_worker.constraints.document import Node, Schema
from diffusion_worker.errors import BadAsk


class Checker:
    """One schema, ready to judge values. Raises BadAsk for what is no schema by its own metaschema."""

    def __init__(self, schema: Schema) -> None:
        kind = validator_for(schema, default=jsonschema.Draft202012Validator)
        try:
            kind.check_schema(schema)
        except jsonschema.SchemaError as error:
            place = "".join(f"/{part}" for part in error.absolute_path)
            raise BadAsk(
                f"not a valid schema: {error.message[:200]} (at `#{place}`)", param="response_format"
            ) from None
        self._validator = kind(schema, registry=jsonschema_specifications.REGISTRY)

    def holds(self, node: Node, value: Any) -> bool:
        """Whether a value satisfies one position of the schema."""
        valid = bool(self._validator.evolve(schema=node.schema).is_valid(value))
        return valid != node.negative

    def violation(self, value: Any) -> str | None:
        """What is wrong with a value, in one line; None: nothing."""
        error = next(iter(self._validator.iter_errors(value)), None)
        return None if error is None else f"{error.json_path}: {str(error.message)[:200]}"

    def violation_of_text(self, text: str) -> str | None:
        """The same for a text, which must be one JSON document."""
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except ValueError as error:
            return f"not JSON: {error}"
        return self.violation(value)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
