"""JSON Schemas in a request: valid, or refused with the place that is not."""

import jsonschema_rs

from diffusion_worker.web.requests.fields import Fields


def check_schema(fields: Fields, name: str) -> None:
    """Compiling checks the meta-schema, every pattern and every reference. Offline: a reference must never make us
    fetch what a stranger names. Raises MissingField, InvalidType, InvalidValue."""
    fields.required(name)
    schema = fields.object(name) or fields
    try:
        jsonschema_rs.validator_for(dict(schema.values), offline=True)
    except (ValueError, jsonschema_rs.ValidationError) as error:
        place = "/".join(map(str, getattr(error, "instance_path", ()) or ()))
        reason = getattr(error, "message", str(error))
        raise fields.invalid(name, f"is not a valid JSON Schema at '#/{place}': {reason}.") from error
