"""Describe quality scores in words."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Float

from ea_jax.errors import BadInput
from ea_jax.quality.scores import Scores
from ea_jax.typing import ArrayIn

REPORTED = ("confidence", "expected_cosine", "expected_cosine_lower", "novelty")
HIGH, LOW = 0.8, 0.5  # confidence
MAX_TEXT = 60  # characters shown


def interpret_quality(
    texts: Sequence[str], scores: Scores | Mapping[str, Float[ArrayIn, " n"]], space_label: str = "source"
) -> str:
    """Describe the scores of texts: one line a text with its confidence, its expected cosine and a recommendation.

    Args:
        texts: The embedded texts.
        scores: Their scores, as a `Quality` returns them or by name.
        space_label: Name of the source space, for the first line.

    Raises:
        BadInput: The numbers of texts and scores differ.
    """
    by_name = scores._asdict() if isinstance(scores, Scores) else dict(scores)
    columns = {name: [float(v) for v in jnp.ravel(jnp.asarray(by_name[name]))] for name in REPORTED}
    if any(len(column) != len(texts) for column in columns.values()):
        raise BadInput(
            f"There are {len(texts)} texts and {len(columns['confidence'])} scores; they must be row-aligned."
        )
    lines = [f"{len(texts)} texts, by their embeddings in the {space_label} space:"]
    for text, confidence, cosine, lower, novelty in zip(texts, *columns.values(), strict=True):
        excerpt = " ".join(text.split())
        excerpt = excerpt if len(excerpt) <= MAX_TEXT else excerpt[: MAX_TEXT - 1] + "…"
        forecast = f"expected cosine {cosine:.2f} (nine in ten above {lower:.2f})"
        lines.append(f"- {excerpt!r}: confidence {confidence:.2f}, {forecast}: {_verdict(confidence, novelty)}.")
    accepted = sum(confidence >= HIGH for confidence in columns["confidence"])
    lines.append(f"{accepted} of {len(texts)} have a confidence of {HIGH} or more; send the others to the provider.")
    return "\n".join(lines)


def _verdict(confidence: float, novelty: float) -> str:
    if novelty > HIGH:
        return "unlike the texts of the fit, possibly junk"
    if confidence >= HIGH:
        return "typical; its true neighbor should be among the first ten"
    return "doubtful" if confidence >= LOW else "difficult for this adapter; send it to the provider"
