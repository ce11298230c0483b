"""Identify the model that made vectors, by comparing a sample with a small signature of each known space.

Shapes: `n` rows, `d` width of the vectors, `k` directions of a signature.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int8

from ea_jax.errors import BadEntry, BadInput
from ea_jax.registry.locations import BUNDLED

FILE = BUNDLED / "signatures.npz"
CALIBRATION, MATRYOSHKA, SCALE = "calibration", "matryoshka", ":scale"  # names of arrays in the file
LEAST_ROWS, LEAST_WIDTH = 10, 64
SAMPLE = 500  # rows
BYTES = 32_000  # of one signature at the most
DIRECTIONS = 30  # 8 suffice except to tell bge-large from its relative mxbai-large
PER_DIRECTION = 16  # dimensions a direction, at least: a subspace of most directions would hold any vector
SHRINKAGE = 3.0  # of the mean variance, added to every direction of the covariance
MOST_CHANCE = 10.0  # standard deviations; a larger excess is no better evidence
SURE = 0.5  # below this confidence, the answer is unknown
TINY = 1e-9


class Signature(NamedTuple):
    """A Gaussian of the unit vectors of a space: a mean m, and the covariance `L.T @ L + rest * I` of unit total.

    Attributes:
        codes: Row 0 is the mean; the others, L, are principal directions times their standard deviations.
        scale: Multiplier of each row of codes.
        matryoshka: Whether the leading dimensions alone are an embedding too.
    """

    codes: Int8[np.ndarray, "k+1 d"]
    scale: Float32[np.ndarray, " k+1"]
    matryoshka: bool = False

    @property
    def width(self) -> int:
        """Width of the space."""
        return self.codes.shape[1]


class Signatures(NamedTuple):
    """Signatures by id of the space, and the calibration of the confidence: see `log_odds`."""

    spaces: Mapping[str, Signature]
    calibration: Float[np.ndarray, " 3"]


class Reference(NamedTuple):
    """A signature, prepared for vectors of some width.

    Attributes:
        weight: Inner product with it is 1 for the space's mean: `S^-1 m / m S^-1 m`, Fisher's discriminant against
            zero. Directions in which texts vary count little.
        basis: Orthonormal basis of the mean and the directions.
        share: Share of the squared length of the space's own vectors that lies in the basis.
    """

    weight: Float32[np.ndarray, " d"]
    basis: Float32[np.ndarray, "d k"]
    share: float


class Candidate(NamedTuple):
    """A space that vectors may come from.

    Attributes:
        space: Id.
        width: Of the space; narrower vectors are compared with its leading numbers.
        confidence: Probability that the vectors are of this space.
        mean: Component of the vectors' mean along the space's mean: about 1 in the space, about 0 in an unrelated one.
        subspace: Share of the vectors in the space's principal subspace, on the same scale.
    """

    space: str
    width: int
    confidence: float
    mean: float
    subspace: float


class Identification(NamedTuple):
    """The answer of `identify`.

    Attributes:
        space: Id of the likely space; None if unknown.
        confidence: Probability of the best candidate; 0 if there is none.
        candidates: Spaces of this width, and wider ones that may be cut to it, the most likely first.
        rows: Number of vectors compared.
        width: Of the vectors.
        length: Median length. Only directions are compared, so it is not evidence.
        reason: Why the space is unknown; empty if it is known.
    """

    space: str | None
    confidence: float
    candidates: tuple[Candidate, ...]
    rows: int
    width: int
    length: float
    reason: str


def identify(vectors: Float[np.ndarray, "n d"], signatures: Signatures | None = None) -> Identification:
    """Identify the model that made some vectors.

    `features` give the odds of each space against an unknown one. A model that was fine-tuned from a known one may be
    identified as the known one.

    Args:
        vectors: Embeddings of at least ten varied texts, of any length, perhaps cut to their leading numbers.
        signatures: Signatures of the candidate spaces; the bundled ones if None.

    Raises:
        BadInput: Vectors are too few, too narrow, not finite or zero.
    """
    length = _checked_lengths(vectors)
    n, d = vectors.shape
    spaces, calibration = load_signatures() if signatures is None else signatures
    rows = np.random.default_rng(0).permutation(n)[:SAMPLE]
    x = (vectors[rows] / length[rows, None]).astype(np.float32)
    fitting = [space for space, s in spaces.items() if fits(s, d)]
    measured = np.array([features(x, reference(spaces[space], d)) for space in fitting]).reshape(-1, 3)
    odds = np.exp(np.minimum(log_odds(measured, calibration), 100))
    candidates = [
        Candidate(space, spaces[space].width, float(own / (1 + odds.sum())), float(mean), float(subspace))
        for space, own, (mean, subspace, _) in zip(fitting, odds, measured, strict=True)
    ]
    candidates.sort(key=lambda candidate: -candidate.confidence)
    confidence = candidates[0].confidence if candidates else 0.0
    known = confidence >= SURE
    return Identification(
        candidates[0].space if known else None,
        confidence,
        tuple(candidates),
        len(rows),
        d,
        float(np.median(length)),
        "" if known else _reason(d, candidates),
    )


def confidence_in(space: str, vectors: Float[np.ndarray, "n d"], signatures: Signatures | None = None) -> float | None:
    """Probability that a named model made some vectors; None where its space has no signature.

    Args:
        space: Id.
        vectors: As for `identify`.
        signatures: Signatures of the candidate spaces; the bundled ones if None.

    Raises:
        BadInput: As `identify`.
    """
    signatures = load_signatures() if signatures is None else signatures
    if space not in signatures.spaces:
        return None
    return next((c.confidence for c in identify(vectors, signatures).candidates if c.space == space), 0.0)


def fits(signature: Signature, width: int) -> bool:
    """Whether vectors of a width may come from the space, whole or cut to their leading dimensions."""
    return signature.width == width or (signature.matryoshka and signature.width > width)


def reference(signature: Signature, width: int) -> Reference:
    """Prepare a signature for vectors of a width that fits."""
    rows = signature.codes * signature.scale[:, None].astype(np.float64)
    rest = max(1 - np.square(rows).sum(), 0) / signature.width
    rows = rows[: 1 + width // PER_DIRECTION, :width]
    energy = np.square(rows).sum() + rest * width  # squared length of a cut unit vector
    rows, rest = rows / np.sqrt(energy), rest / energy
    mean, directions = rows[0], rows[1:]
    noise = rest + SHRINKAGE * (np.square(directions).sum() / width + rest)
    inner = directions @ directions.T + noise * np.eye(len(directions))
    weight = mean - directions.T @ np.linalg.solve(inner, directions @ mean)  # S^-1 m times the noise (Woodbury)
    share = np.square(rows).sum() + rest * len(rows)
    basis = np.linalg.qr(rows.T)[0]
    return Reference((weight / (mean @ weight)).astype(np.float32), basis.astype(np.float32), float(share))


def features(x: Float32[np.ndarray, "n d"], reference: Reference) -> Float[np.ndarray, " 3"]:
    """Measure the evidence that unit rows come from a space: by their mean, by their subspace, and against chance.

    With the rows' second moment A, and the basis Q and the share s of the reference:

    - mean: the mean row times the reference's weight;
    - subspace: `(tr QAQ - k/d) / (s - k/d)`, since k directions hold the share k/d of unrelated vectors;
    - chance: `ln(1 + z)`, z the distance of `tr QAQ` from k/d in standard deviations over random rotations of Q, at
      most 10.
    """
    d, k = reference.basis.shape
    excess = float(np.square(x @ reference.basis).sum()) / len(x) - k / d
    concentration = float(np.square(x @ x.T).mean())  # tr A^2; 1/d at the least
    spread = np.sqrt(2 * k * (d - k) * max(concentration - 1 / d, 1e-9) / (d * d * (d + 2)))
    mean = float(x.mean(axis=0) @ reference.weight)
    return np.array([mean, excess / (reference.share - k / d), np.log1p(np.clip(excess / spread, 0, MOST_CHANCE))])


def log_odds(features: Float[np.ndarray, "*s 3"], calibration: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "*s"]:
    """Logarithm of the odds of a space against an unknown one: `a + b |1 - mean| + c chance`."""
    bias, *weights = calibration
    return bias + np.stack([np.abs(1 - features[..., 0]), features[..., 2]], axis=-1) @ np.array(weights)


def make_signature(sources: Sequence[Float[np.ndarray, "_ d"]], matryoshka: bool = False) -> Signature:
    """Make the signature of a space.

    Args:
        sources: Vectors of each source. A source of n rows has the weight `sqrt(n)`, so that one large collection does
            not dominate the signature.
        matryoshka: Whether the leading dimensions alone are an embedding too.

    Raises:
        BadInput: As `identify`.
    """
    x = np.concatenate(sources).astype(np.float64)
    x /= _checked_lengths(x)[:, None]
    weight = np.concatenate([np.full(len(rows), len(rows) ** -0.5) for rows in sources])
    weight /= weight.sum()
    n, d = x.shape
    mean = weight @ x
    centered = (x - mean) * np.sqrt(weight)[:, None]
    k = min(DIRECTIONS, d // PER_DIRECTION, BYTES // (d + 4) - 1, n - 1)
    if n > d:
        directions = np.linalg.eigh(centered.T @ centered)[1][:, : -k - 1 : -1].T
    else:
        directions = np.linalg.eigh(centered @ centered.T)[1][:, : -k - 1 : -1].T @ centered
        directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), TINY)
    rows = np.vstack([mean, directions * np.linalg.norm(centered @ directions.T, axis=0)[:, None]])
    scale = np.maximum(np.abs(rows).max(axis=1) / 127, TINY)
    return Signature(np.rint(rows / scale[:, None]).astype(np.int8), scale.astype(np.float32), matryoshka)


def save_signatures(path: Path, signatures: Signatures) -> None:
    """Write signatures as npz."""
    spaces = signatures.spaces
    arrays = {space: s.codes for space, s in spaces.items()} | {
        f"{space}{SCALE}": s.scale for space, s in spaces.items()
    }
    arrays[MATRYOSHKA] = np.array([space for space, s in spaces.items() if s.matryoshka], str)
    np.savez_compressed(path, allow_pickle=False, **arrays, **{CALIBRATION: signatures.calibration.astype(np.float32)})


@lru_cache(maxsize=2)
def load_signatures(path: Path = FILE) -> Signatures:
    """Read the signatures of a file.

    Raises:
        BadEntry: The file cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        cut, calibration = arrays.pop(MATRYOSHKA).tolist(), arrays.pop(CALIBRATION)
        spaces = [name for name in arrays if not name.endswith(SCALE)]
        return Signatures({s: Signature(arrays[s], arrays[s + SCALE], s in cut) for s in spaces}, calibration)
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise BadEntry(f"The signatures in {path} cannot be read: {error}. Install ea_jax again.") from error


def _checked_lengths(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    n, d = vectors.shape
    if n < LEAST_ROWS:
        raise BadInput(f"There are {n} vectors; identification needs at least {LEAST_ROWS}, of varied texts.")
    if d < LEAST_WIDTH:
        raise BadInput(f"The vectors have width {d}; identification needs at least {LEAST_WIDTH}.")
    length = np.linalg.norm(vectors.astype(np.float64), axis=1)
    bad = ~np.isfinite(length) | (length == 0)
    if bad.any():
        row = int(bad.argmax())
        raise BadInput(f"Row {row} is {'zero' if length[row] == 0 else 'not finite'}. Leave such rows out.")
    return length


def _reason(width: int, candidates: Sequence[Candidate]) -> str:
    if len(candidates) > 1 and candidates[0].confidence + candidates[1].confidence >= SURE:
        return f"{candidates[0].space} and {candidates[1].space} are about as likely"
    same = sorted(candidate.space for candidate in candidates if candidate.width == width)
    if same:
        return f"the vectors differ from those of every known model of width {width}: {', '.join(same)}"
    wider = sorted(candidate.space for candidate in candidates)
    unlike = f", and the vectors differ from those of {', '.join(wider)}, cut to it" if wider else ""
    return f"no known model has width {width}{unlike}"
