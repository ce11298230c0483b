"""Scores in words."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Float

from ea_jax.errors import BadInput
from ea_jax.quality.scores import Scores
from ea_jax.typing import ArrayIn

REPORTED = ("confidence", "expected_cosine", "expected_cosine_lower", "novelty")


SURE, DOUBTFUL, SHOWN = 0.8, 0.5, 60


def interpret_quality(
    texts: Sequence[str], scores: Scores | Mapping[str, Float[ArrayIn, " n"]], space_label: str = "source"
) -> str:
    """A report for people: each text with its confidence, its expected cosine, and what to do with it.

    Args:
        texts: What was embedded.
        scores: What a `Quality` returned for them, or the same by name.
        space_label: What to call the space of the embeddings.

    Raises:
        BadInput: There are not as many scores as texts.
    """
    by_name = scores._asdict() if isinstance(scores, Scores) else dict(scores)
    columns = {name: [float(v) for v in jnp.ravel(jnp.asarray(by_name[name]))] for name in REPORTED}
    if any(len(column) != len(texts) for column in columns.values()):
        raise BadInput(
            f"There are {len(texts)} texts and {len(columns['confidence'])} scores; they must be row-aligned."
        )
    lines = [f"{len(texts)} texts, by their embeddings in the {space_label} space:"]
    for text, confidence, cosine, lower, novelty in zip(texts, *columns.values(), strict=True):
        shown = " ".join(text.split())
        shown = shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + "…"
        forecast = f"expected cosine {cosine:.2f} (nine in ten above {lower:.2f})"
        lines.append(f"- {shown!r}: confidence {confidence:.2f}, {forecast}: {_verdict(confidence, novelty)}.")
    sure = sum(confidence >= SURE for confidence in columns["confidence"])
    lines.append(f"{sure} of {len(texts)} have a confidence of {SURE} or more; send the others to the provider.")
    return "\n".join(lines)


def _verdict(confidence: float, novelty: float) -> str:
    if novelty > SURE:
        return "unlike the texts of the fit, perhaps junk"
    if confidence >= SURE:
        return "typical, its true neighbor should be among the first ten"
    return "doubtful" if confidence >= DOUBTFUL else "hard for this adapter, better sent to the provider"
