"""Validation of the JSON Schemas in a request."""

import jsonschema_rs

from diffusion_worker.web.requests.fields import Fields


def check_schema(fields: Fields, name: str) -> None:
    """Check a schema against its meta-schema, including patterns and references.

    Runs offline: a reference in an untrusted schema must not cause a network request. Raises MissingField,
    InvalidType, InvalidValue."""
    fields.required(name)
    schema = fields.object(name) or fields
    try:
        jsonschema_rs.validator_for(dict(schema.values), offline=True)
    except (ValueError, jsonschema_rs.ValidationError) as error:
        pointer = "/".join(map(str, getattr(error, "instance_path", ()) or ()))
        reason = getattr(error, "message", str(error))
        raise fields.invalid(name, f"is not a valid JSON Schema at '#/{pointer}': {reason}.") from error
