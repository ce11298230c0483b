"""What made the vectors of a file: one key of an Arrow schema's metadata, which parquet and IPC files keep."""

import json
from typing import Any

import pyarrow as pa

from ea_jax.errors import BadInput

KEY = b"ea_jax"


def write(schema: pa.Schema, facts: dict[str, Any]) -> pa.Schema:
    """The schema with the facts in place of those it had; its other metadata stay."""
    told = json.dumps(facts, sort_keys=True).encode()
    return schema.with_metadata({**(schema.metadata or {}), KEY: told})


def read(schema: pa.Schema) -> dict[str, Any] | None:
    """The facts that `write` put there; None where there are none.

    Raises:
        BadInput: What is there is no JSON object.
    """
    told = (schema.metadata or {}).get(KEY)
    if told is None:
        return None
    try:
        facts = json.loads(told)
    except ValueError as error:
        raise BadInput(f"The schema's metadata {KEY.decode()!r} is no JSON ({error}). Write the file again.") from error
    if not isinstance(facts, dict):
        raise BadInput(f"The schema's metadata {KEY.decode()!r} is no JSON object. Write the file again.")
    return facts


def encoder_of(schema: pa.Schema) -> dict[str, Any] | None:
    """What the facts say of the encoder of the vectors: of those that an adapter made, no more than the target model.

    Raises:
        BadInput: What is there is no object of facts.
    """
    facts = read(schema) or {}
    encoder = {"model": facts["target"]} if "target" in facts else facts.get("encoder")
    if encoder is not None and not isinstance(encoder, dict):
        raise BadInput(f"The schema's metadata {KEY.decode()!r} holds no object of facts. Write the file again.")
    return encoder
