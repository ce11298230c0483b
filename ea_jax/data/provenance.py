"""Record which model made the vectors of a file, in one key of the metadata of its Arrow schema."""

import json
from typing import Any

import pyarrow as pa

from ea_jax.errors import BadInput

KEY = b"ea_jax"


def write(schema: pa.Schema, facts: dict[str, Any]) -> pa.Schema:
    """Return the schema with these facts recorded. Other metadata stay."""
    content = json.dumps(facts, sort_keys=True).encode()
    return schema.with_metadata({**(schema.metadata or {}), KEY: content})


def read(schema: pa.Schema) -> dict[str, Any] | None:
    """Return the recorded facts, or None.

    Raises:
        BadInput: The record is not a JSON object.
    """
    content = (schema.metadata or {}).get(KEY)
    if content is None:
        return None
    try:
        facts = json.loads(content)
    except ValueError as error:
        raise BadInput(
            f"The schema's metadata {KEY.decode()!r} is not JSON ({error}). Write the file again."
        ) from error
    if not isinstance(facts, dict):
        raise BadInput(f"The schema's metadata {KEY.decode()!r} is not a JSON object. Write the file again.")
    return facts


def encoder_of(schema: pa.Schema) -> dict[str, Any] | None:
    """Return the recorded facts of the encoder; for an adapter's output, the target model alone.

    Raises:
        BadInput: The record is not an object of facts.
    """
    facts = read(schema) or {}
    encoder = {"model": facts["target"]} if "target" in facts else facts.get("encoder")
    if encoder is not None and not isinstance(encoder, dict):
        raise BadInput(f"The schema's metadata {KEY.decode()!r} is not an object of facts. Write the file again.")
    return encoder
