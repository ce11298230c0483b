"""Decode and check the vectors of an answer in OpenAI's format."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from ea_jax.embeddings import LENGTH_TOLERANCE
from ea_jax.errors import BadInput
from ea_jax.registry.spaces import Space


def check_vectors(
    items: Sequence[tuple[Any, Any]],
    count: int,
    space: Space,
    where: str,
    first: int = 0,
    dimensions: int | None = None,
) -> Float32[np.ndarray, "n d"]:
    """Decode the vectors of an answer, sort them by index, and check them.

    For a Matryoshka space, `dimensions` truncates the vectors, unless the endpoint did. Truncated vectors are scaled to
    unit length.

    Args:
        items: Index and embedding of each item: base64 of little-endian float32, or a list of numbers.
        count: Number of texts of the request.
        space: Space that the vectors must belong to.
        where: Origin of the answer, for messages.
        first: Number of the first text, for messages.
        dimensions: The requested width; None if the request left it to the model.

    Raises:
        BadInput: The number of vectors differs from that of the texts, or a vector has the wrong width, is zero or not
            finite, or is not of unit length in a space of unit vectors.
    """
    width = dimensions or space.width
    if len(items) != count:
        raise BadInput(f"{where} answered with {len(items)} vectors for {count} texts. Is it an embeddings endpoint?")
    by_index = {index: embedding for index, embedding in items if isinstance(index, int)}
    if set(by_index) != set(range(count)):
        raise BadInput(f"{where} answered with indices that are not those of the texts. Is it OpenAI-compatible?")
    rows = [decode_vector(by_index[row], f"{where}, text {first + row}") for row in range(count)]
    for row, vector in enumerate(rows, first):
        if len(vector) != width and not (space.matryoshka and width < len(vector) <= space.width):
            raise BadInput(
                f"{where}, text {row}: the vector has width {len(vector)}, but {_width_of(space, width)}. Check the "
                "model and the target, or request this width."
            )
    return _scale(
        np.stack([row[:width] for row in rows]), space, where, first, space.matryoshka and dimensions is not None
    )


def check_dimensions(space: Space, dimensions: int | None) -> None:
    """Raise BadInput unless vectors of the space can have this width: only Matryoshka vectors can be truncated."""
    if dimensions is None or dimensions == space.width or (space.matryoshka and 1 <= dimensions < space.width):
        return
    limit = "at most" if space.matryoshka else "exactly"
    raise BadInput(f"dimensions is {dimensions}, but {space.id} has width {space.width}. It must be {limit} that.")


def decode_vector(embedding: Any, where: str) -> Float32[np.ndarray, " d"]:
    """Decode one vector: base64 of little-endian float32, or a list of numbers from servers without base64.

    Raises:
        BadInput: The value is neither.
    """
    try:
        if isinstance(embedding, str):
            return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").astype(np.float32)
        vector = np.asarray(embedding, np.float32)
    except (ValueError, TypeError):
        vector = None
    if vector is None or vector.ndim != 1:
        raise BadInput(f"{where}: the answer is not a list of numbers. Is it OpenAI-compatible?")
    return vector


def _width_of(space: Space, width: int) -> str:
    return f"{space.id} has width {width}" if width == space.width else f"width {width} was requested"


def _scale(
    y: Float32[np.ndarray, "n d"], space: Space, where: str, first: int, truncated: bool
) -> Float32[np.ndarray, "n d"]:
    """Scale vectors to unit length, if the space has it. Only truncated vectors may be much shorter."""
    norms = np.linalg.norm(y.astype(np.float64), axis=1)
    bad = ~np.isfinite(norms) | (norms == 0)
    if bad.any():
        raise BadInput(f"{where}, text {first + bad.argmax()}: the vector is zero or not finite. Try again later.")
    if not space.unit_norm:
        return y
    wrong = norms > 1 + LENGTH_TOLERANCE if truncated else np.abs(norms - 1) > LENGTH_TOLERANCE
    if wrong.any():
        row = int(wrong.argmax())
        raise BadInput(
            f"{where}, text {first + row}: the vector has length {norms[row]:.3g}, but those of {space.id} have unit "
            "length. Check the model and the target."
        )
    return (y / norms[:, None]).astype(np.float32)
