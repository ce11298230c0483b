"""From files of pairs to a registry entry: read, embed where needed, keep test rows out, fit, measure, write."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import compress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ea_jax.encoder import Encoder
from ea_jax.entries import save_entry
from ea_jax.errors import BadInput, FingerprintMismatch
from ea_jax.fitting import CORPUS_SIZE, DEFAULT, Budget, Family, Foreign, fit
from ea_jax.fitting.splits import near_duplicates
from ea_jax.heldout import KS, HeldOut, held_out_figures
from ea_jax.junk import junk_texts
from ea_jax.loading import PURPOSES, check_files, load_encoder
from ea_jax.ops import unit
from ea_jax.registry import Space
from ea_jax.tables import Pairs, read_pairs, stacked

SPOT_CHECKS = 8
JUNK = 100  # texts of each kind
BLOCK = 4096


def fit_entry(
    pairs: Sequence[Path],
    source: Space,
    target: Space,
    out: Path,
    *,
    flavor: str,
    family: Family = "auto",
    budget: Budget = DEFAULT,
    prompt: str | None = None,
    corpus_size: int = CORPUS_SIZE,
    tests: Mapping[str, Path],
    near: float,
    description: str,
    seed: int,
    assume_source: bool = False,
    show_progress: bool = False,
    say: Callable[[str], None],
) -> Path:
    """Fit an adapter on the pairs of files and write it as a registry entry.

    Args:
        pairs: Files of pairs or one folder, as `read_pairs` takes them. They may exceed memory, and then go to disk.
        source: Space of x, or of the encoder that embeds the texts.
        target: Space of y.
        out: Registry folder.
        flavor: Which of several adapters between the two.
        family: Of adapters, as `fit` takes it.
        budget: How large the adapter may be.
        prompt: Name of the prefix that the source encoder puts before each text; its default prompt if None.
        corpus_size: Rows of the native corpus that queries will search, as `fit` takes it.
        tests: Files (or folders) of test pairs by name, with a column `query`.
        near: Cosine to a test query, in either space, from which a training pair is left out.
        description: What the pairs were, for people.
        seed: Of all sampling; one seed gives one result.
        assume_source: Take columns x for the source model's, whatever their files say of them.
        show_progress: Draw bars on stderr.
        say: Told what is going on.

    Returns:
        The entry's folder.

    Raises:
        BadInput: A file, a column or a vector is not what it should be, or there are too few pairs.
        FingerprintMismatch: The column x does not hold what the source encoder makes of the column text, or its file
            says that another encoder made it.
        UnknownName: The source encoder has no such prompt.
    """
    encoder = load_encoder(source.id) if source.local else None
    if prompt is not None:
        if encoder is None:
            raise BadInput(f"{source.id} does not run here to put the prompt {prompt!r} before a text: leave it out.")
        encoder = encoder.prompted(prompt)
    facts = encoder.spec.facts() if encoder else provider_facts(source)
    assumed = check_files([*pairs, *tests.values()], facts, "this adapter", assume_source)
    test_sets = {name: test_set(path, source, target, encoder) for name, path in tests.items()}
    with _scratch_beside(out) as scratch:
        train = _embedded(read_pairs(pairs, scratch), str(pairs[0]), source, target, encoder, scratch)
        say(f"{len(train.y):,} pairs read")
        kept = far_from_tests(train, test_sets, near)
        groups, domains = (list(compress(names, kept)) if names else None for names in (train.group, train.domain))
        say(f"{(~kept).sum():,} pairs left out as near-duplicates of test queries; fitting")
        x, y = (_rows(vectors, kept, scratch) for vectors in (train.x, train.y))
        foreign = _foreign(train.text, encoder, seed)
        fitted = fit(
            x,
            y,
            family=family,
            budget=budget,
            groups=groups,
            domains=domains,
            foreign=foreign,
            corpus_size=corpus_size,
            seed=seed,
            show_progress=show_progress,
        )
    for line in fitted.report["advice"]:
        say(line)
    report = fitted.report | {"near_duplicates": int((~kept).sum()), "near_duplicate_cosine": near, "seed": seed}
    report |= assumed
    metrics = {
        name: held_out_figures(test, {p: fitted.apply(test.x, p) for p in PURPOSES}) for name, test in test_sets.items()
    }
    return save_entry(
        out,
        replace(fitted, report=report),
        source,
        target,
        flavor=flavor,
        encoder=facts,
        metrics=metrics,
        description=description,
    )


def _foreign(texts: Sequence[str] | None, encoder: Encoder | None, seed: int) -> Foreign | None:
    """Embeddings of junk made of the pairs' own words; None where the texts or their encoder are not here."""
    if not texts or encoder is None:
        return None
    junk = [text for kind in junk_texts(texts, JUNK, seed).values() for text in kind]
    return Foreign(junk=encoder(junk), ordinary=np.zeros((0, encoder.spec.dim or encoder.spec.width), np.float32))


@contextmanager
def _scratch_beside(out: Path) -> Iterator[Path]:
    """A folder for what exceeds memory, on the disk that `out` is or will be on; it is removed in every case."""
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    with TemporaryDirectory(dir=there, prefix=".fit-") as scratch:
        yield Path(scratch)


def _rows(vectors: Float[np.ndarray, "n d"], kept: Bool[np.ndarray, " n"], scratch: Path) -> Float[np.ndarray, "m d"]:
    """The rows kept: the array itself where all are, else a new one in `scratch`, written block by block."""
    if kept.all():
        return vectors
    blocks = [slice(start, start + BLOCK) for start in range(0, len(kept), BLOCK)]
    return stacked((vectors[block][kept[block]] for block in blocks), scratch)


def _embedded(
    pairs: Pairs, where: str, source: Space, target: Space, encoder: Encoder | None, scratch: Path | None = None
) -> Any:
    """Pairs whose x is there, of the right widths and lengths; texts are embedded, given vectors spot-checked."""
    _check_vectors(f"{where}, column y", pairs.y, target)
    x = pairs.x
    if x is None:
        if encoder is None or pairs.text is None:
            raise BadInput(f"{where} has no column x, and {source.id} does not run here to embed the texts.")
        x = stacked(encoder.stream(pairs.text, show_progress=True), scratch)
    _check_vectors(f"{where}, column x", x, source)
    if pairs.x is not None and encoder is not None and pairs.text is not None:
        rows = np.linspace(0, len(pairs.text) - 1, min(SPOT_CHECKS, len(pairs.text))).astype(int)
        worst = np.min(np.sum(encoder([pairs.text[row] for row in rows]) * unit(x[rows]), axis=1))
        if worst < 0.999:
            raise FingerprintMismatch(
                f"{where}: column x is not what {source.id} makes of column text (cosine {worst:.3f} in a spot check). "
                "Leave x out to have the texts embedded here."
            )
    return replace(pairs, x=x)


def _check_vectors(where: str, vectors: np.ndarray, space: Space) -> None:
    if vectors.shape[1] != space.width:
        raise BadInput(f"{where} has width {vectors.shape[1]}, but {space.id} has width {space.width}.")
    for start in range(0, len(vectors) if space.unit_norm else 0, BLOCK):
        off = np.abs(np.linalg.norm(vectors[start : start + BLOCK], axis=1) - 1) > 0.01
        if off.any():
            row = start + off.argmax()
            raise BadInput(f"{where}, row {row}: the vector has not length one, as those of {space.id} have.")


def test_set(path: Path, source: Space, target: Space, encoder: Encoder | None) -> HeldOut:
    """Queries and corpus of a file (or folder) of test pairs; texts without source vectors are embedded.

    Raises:
        BadInput, FingerprintMismatch: As `fit_entry`.
    """
    return held_out(_embedded(read_pairs([path]), str(path), source, target, encoder), str(path), source.id)


def held_out(pairs: Pairs, where: str, model: str) -> HeldOut:
    """Queries and corpus of test pairs that have both vectors.

    Raises:
        BadInput: A column is missing, no row asks, or the corpus is smaller than the largest k.
    """
    if pairs.query is None or pairs.x is None:
        missing = "x, embeddings of " + model if pairs.x is None else "query, true for the rows that ask"
        raise BadInput(f"{where} needs the column {missing}.")
    asks = pairs.query
    if not asks.any() or (~asks).sum() < max(KS):
        raise BadInput(f"{where} has {asks.sum()} queries and a corpus of {(~asks).sum()}; it needs 1 and {max(KS)}.")
    return HeldOut(pairs.x[asks], pairs.y[asks], pairs.x[~asks], pairs.y[~asks])


def far_from_tests(train: Pairs, tests: Mapping[str, HeldOut], near: float) -> Bool[np.ndarray, " n"]:
    """Which training pairs have, in both spaces, a cosine below `near` to every test query."""
    assert train.x is not None
    kept = np.ones(len(train.y), bool)
    for test in tests.values():
        kept &= ~(near_duplicates(train.x, test.x, near) | near_duplicates(train.y, test.y, near))
    return kept


def provider_facts(source: Space) -> dict[str, Any]:
    """Facts of a model that runs elsewhere: its id is all that is known."""
    return {"model": source.id, "fingerprint": hashlib.sha256(source.id.encode()).hexdigest()[:16]}
