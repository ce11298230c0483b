"""Fit a registry entry on files of pairs: read, embed, leave out near-duplicates of tests, fit, measure, write."""

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

from ea_jax.adapters.adapter import Adapter
from ea_jax.adapters.spec import PURPOSES
from ea_jax.data.junk import junk_texts
from ea_jax.data.pairs import Pairs, read_pairs, stacked
from ea_jax.embeddings import unit
from ea_jax.encoders.encoder import Encoder
from ea_jax.encoders.spec import EncoderSpec
from ea_jax.errors import BadInput, Conflict, FingerprintMismatch, UnknownName
from ea_jax.fitting import AUTO, Fitted, Foreign, check_family, fit, verdict
from ea_jax.loading import load_adapter, load_encoder, load_quality_part
from ea_jax.quality.schema import quality_sizes
from ea_jax.quality.scores import Quality
from ea_jax.registry.entry import Entry
from ea_jax.registry.fingerprint import check_source, check_source_files, is_same_encoder
from ea_jax.registry.lookup import find_entry, find_entry_by_name
from ea_jax.registry.model_card import format_card, format_front_matter
from ea_jax.registry.spaces import Space, find_space
from ea_jax.registry.writer import entry_folder, write_entry
from ea_jax.retrieval.held_out import KS, HeldOut, held_out_metrics
from ea_jax.retrieval.neighbors import near_duplicates

AUTO_PRIOR, NO_PRIOR = "auto", "none"
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
    family: str | None = None,
    prior: str = AUTO_PRIOR,
    replace_entry: bool = False,
    prompt: str | None = None,
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
        target: Space of y. Where its leading numbers alone are an embedding too, y may be cut to them.
        out: Registry folder.
        flavor: Which of several adapters between the two.
        family: Of adapters, as `fit` takes it. If None, `linear`; for bare vectors without a prior, whichever of
            `linear` and `kernel` ranks better.
        prior: `auto` for the registries' adapter between the two spaces, if there is one; `none`; or an entry's name.
        replace_entry: Whether an entry of this name may be overwritten.
        prompt: Name of the prefix that the source encoder puts before each text; its default prompt if None.
        tests: Files (or folders) of test pairs by name, with a column `query`.
        near: Cosine to a test query, in either space, from which a training pair is left out.
        description: What the pairs were, for people.
        seed: Random seed; the same one gives the same result.
        assume_source: Accept columns x as the source model's, whatever their files record.
        show_progress: Draw bars on stderr.
        say: Called with a message at each stage; the last one compares the adapter with keeping the source model.

    Returns:
        The entry's folder.

    Raises:
        BadInput: A file, a column or a vector is invalid, there are too few pairs, the prior is not
            linear, or the entry exists already.
        FingerprintMismatch: The column x differs from the source encoder's embeddings of the column text, or its file
            records another encoder; or the prior that was named was fitted on another encoder.
        UnknownName: The source encoder has no such prompt, or no entry has the prior's name.
    """
    if family is not None:
        check_family(family)
    folder = out / entry_folder(source, target, flavor)
    if folder.exists() and not replace_entry:
        raise Conflict(f"{folder} exists already. Choose another flavor, or ask for it to be replaced.")
    encoder = load_encoder(source.id) if source.local else None
    if prompt is not None:
        if encoder is None:
            raise BadInput(
                f"{source.id} has no encoder that runs here, so it takes no prompt {prompt!r}. Leave it out."
            )
        encoder = encoder.with_prompt(prompt)
    facts = encoder.spec.facts() if encoder else provider_facts(source)
    assumed = check_source_files([*pairs, *tests.values()], facts, "this adapter", assume_source)
    no_prior = family not in (None, "linear") and prior == AUTO_PRIOR
    start = None if no_prior else find_prior(source, target, facts, prior, flavor)
    test_sets = {name: test_set(path, source, target, encoder) for name, path in tests.items()}
    with _scratch_beside(out) as scratch:
        train = _embedded(read_pairs(pairs, scratch), str(pairs[0]), source, target, encoder, scratch)
        say(f"{len(train.y):,} pairs read")
        kept = far_from_tests(train, test_sets, near)
        groups = list(compress(train.group, kept)) if train.group else None
        if test_sets:
            say(f"{(~kept).sum():,} pairs left out as near-duplicates of test queries")
        say(f"fitting{f', starting from {start.name}' if start else ''}")
        x, y = (_rows(vectors, kept, scratch) for vectors in (train.x, train.y))
        bare = train.text is None and start is None
        blocks = composite_blocks(encoder.spec) if encoder else {}
        fitted = fit(
            x,
            y,
            prior=_prior_quality(start, y.shape[1]) if start else None,
            family=family or (AUTO if bare else "linear"),
            groups=groups,
            foreign=_foreign(train.text, encoder, seed),
            blocks=blocks,
            seed=seed,
            show_progress=show_progress,
        )
    report = fitted.report | {"near_duplicates": int((~kept).sum()), "near_duplicate_cosine": near, "seed": seed}
    report |= {"prior": start.name if start else "none"} | assumed
    metrics = {
        name: held_out_metrics(test, {p: fitted.apply(test.x, p) for p in PURPOSES}, blocks)
        for name, test in test_sets.items()
    }
    entry = save_entry(
        out,
        replace(fitted, report=report),
        source,
        target,
        flavor=flavor,
        encoder=facts,
        metrics=metrics,
        description=description,
    )
    say(verdict(report, source.alias))
    return entry


def find_prior(source: Space, target: Space, facts: Mapping[str, Any], name: str, flavor: str) -> Entry | None:
    """The entry that a fit starts from: the one named, or for `auto` the registries' default for the two spaces.

    An earlier fit of the same flavor is no prior for itself: it may know the same pairs.

    Raises:
        UnknownName: No entry has the name.
        BadInput: The entry named is not a linear adapter between these spaces.
        FingerprintMismatch: The entry named was fitted on another encoder.
    """
    if name == NO_PRIOR:
        return None
    if name == AUTO_PRIOR:
        try:
            entry = find_entry(source.id, target.id)
        except UnknownName:
            return None
        fits = entry.family == "linear" and entry.flavor != flavor and is_same_encoder(entry.encoder, facts)
        return entry if fits else None
    entry = find_entry_by_name(name)
    if (entry.source, entry.target, entry.family) != (source.id, target.id, "linear"):
        raise BadInput(
            f"{name} is a {entry.family} adapter from {entry.source} to {entry.target}; a prior is a linear one from "
            f"{source.id} to {target.id}."
        )
    check_source(entry.encoder, facts, source.id, entry.name)
    return entry


def _prior_quality(entry: Entry, width: int) -> Adapter | Quality:
    """A prior for targets of a width: the entry's quality part, or where targets are cut its leading outputs alone."""
    adapter = load_adapter(entry, dtype="float32")
    if width == entry.d_out:
        return load_quality_part(entry, adapter)
    cut = {"out": {"kernel": adapter.params["out"]["kernel"][:, :width], "bias": adapter.params["out"]["bias"][:width]}}
    return Adapter(replace(adapter.spec, d_out=width), cut)


def composite_blocks(spec: EncoderSpec) -> dict[str, slice]:
    """Columns of each member of a composite that are the member's own embedding, or its last hidden state."""
    blocks, end = {}, 0
    for member in spec.members:
        end += member.width
        width = member.width // max(1, len(member.layers))
        blocks[find_space(member.model).alias] = slice(end - width, end)
    return blocks


def _foreign(texts: Sequence[str] | None, encoder: Encoder | None, seed: int) -> Foreign | None:
    """Embeddings of junk texts made from the words of the pairs; None without texts or without their encoder."""
    if not texts or encoder is None:
        return None
    junk = [text for kind in junk_texts(texts, JUNK, seed).values() for text in kind]
    return Foreign(junk=encoder(junk), ordinary=np.zeros((0, encoder.spec.dim or encoder.spec.width), np.float32))


@contextmanager
def _scratch_beside(out: Path) -> Iterator[Path]:
    """A temporary folder for arrays larger than memory, on the disk of `out`."""
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
    _check_vectors(f"{where}, column y", pairs.y, target, cut=True)
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


def _check_vectors(where: str, vectors: np.ndarray, space: Space, cut: bool = False) -> None:
    if vectors.shape[1] != space.width and not (cut and space.matryoshka and vectors.shape[1] < space.width):
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
        BadInput: A column is missing, there is no query, or the corpus is smaller than the largest k.
    """
    if pairs.query is None or pairs.x is None:
        missing = "x, embeddings of " + model if pairs.x is None else "query, true for the queries"
        raise BadInput(f"{where} needs the column {missing}.")
    is_query = pairs.query
    if not is_query.any() or (~is_query).sum() < max(KS):
        raise BadInput(
            f"{where} has {is_query.sum()} queries and a corpus of {(~is_query).sum()}; it needs 1 and {max(KS)}."
        )
    return HeldOut(pairs.x[is_query], pairs.y[is_query], pairs.x[~is_query], pairs.y[~is_query])


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


def save_entry(
    root: Path,
    fitted: Fitted,
    source: Space,
    target: Space,
    *,
    flavor: str,
    encoder: dict[str, Any],
    metrics: dict[str, Any],
    description: str,
) -> Path:
    """Write `<root>/<source>--<target>--<flavor>/`, replacing an entry of that name once the new one is whole.

    Args:
        root: The registry folder; it is made if it is not there.
        fitted: What `fit` returned.
        source: Space of the embeddings that come in.
        target: Space that they go to.
        flavor: Which of several adapters between the two.
        encoder: Facts of the encoder it was fitted on, with their fingerprint.
        metrics: By test set, what `held_out_metrics` returned.
        description: What the pairs were, for people.

    Returns:
        The entry's folder.
    """
    facts = {
        "family": fitted.family,
        "source": source.id,
        "target": target.id,
        "flavor": flavor,
        "d_in": source.width,
        "d_out": len(fitted.params["out"]["store"]["bias"]),
        "unit_norm": target.unit_norm,
        "sizes": fitted.sizes,
        "description": description,
        "tags": [],
        "encoder": encoder,
        "training": fitted.report,
        "metrics": metrics,
    }
    name = entry_folder(source, target, flavor)
    card = format_front_matter(name, (source, target), metrics, "apache-2.0")
    card += format_card(facts, source.alias, target.alias)
    return write_entry(
        root, name, facts, fitted.params, fitted.quality_params, quality_sizes(fitted.quality_params), card
    )
