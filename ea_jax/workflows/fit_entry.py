"""Fit a registry entry on files of pairs: check them, embed texts, fit, measure test sets, and write the entry."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import compress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32

from ea_jax.adapters.adapter import Adapter, truncate
from ea_jax.adapters.spec import PURPOSES
from ea_jax.data.columns import Columns
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
from ea_jax.quality.source_check import check_source_sample
from ea_jax.registry.entry import Entry, read_entry
from ea_jax.registry.fingerprint import check_source, check_source_files, is_same_encoder, vector_rule
from ea_jax.registry.lookup import choose_flavor, find_entry_by_name, format_entry_name, list_flavors
from ea_jax.registry.model_card import format_card, format_front_matter
from ea_jax.registry.spaces import Space, add_space, find_space
from ea_jax.registry.writer import write_entry
from ea_jax.retrieval.held_out import KS, HeldOut, held_out_metrics
from ea_jax.retrieval.neighbors import near_duplicates
from ea_jax.workflows.embed_texts import embed_texts

AUTO_PRIOR, NO_PRIOR = "auto", "none"
SPOT_CHECKS = 8
JUNK = 100  # texts of each kind
MIN_SPOT_COSINE = 0.999
BLOCK = 4096
logger = logging.getLogger(__name__)


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
    near_duplicate_cosine: float,
    description: str,
    seed: int,
    assume_source: bool = False,
    columns: Columns | None = None,
    normalize: bool = False,
    corpus: Float32[np.ndarray, "m d_out"] | None = None,
    store: str | None = None,
    show_progress: bool = False,
) -> Path:
    """Fit an adapter on the pairs of files and write it as a registry entry.

    All files are read and checked before any text is embedded.

    Args:
        pairs: Files of pairs or one folder, as `read_pairs` takes them. Pairs larger than memory are kept on disk.
        source: Space of x, or of the encoder that embeds the texts.
        target: Space of y, which is added to `out` if no registry has it. If it is a Matryoshka model, y may be
            shortened to its leading dimensions.
        out: Registry folder.
        flavor: Name of the adapter among those of the two spaces.
        family: Adapter family, as `fit` takes it. If None, `auto` for vectors without texts and without a prior, and
            `linear` otherwise.
        prior: `auto` for the registry's adapter between the two spaces, if there is one; `none`; or an entry's name.
        replace_entry: Whether to overwrite an entry of this name.
        prompt: Name of the prompt that the source encoder prepends to each text. If None, its default prompt.
        tests: Files or folders of test pairs by name, with a column `query`.
        near_duplicate_cosine: Training pairs with this cosine or more to a test query, in either space, are left out.
        description: A description of the pairs, for the card.
        seed: Random seed; the same seed gives the same result.
        assume_source: Accept columns x whose metadata names another encoder, or that look like another model's.
        columns: Names of the columns; those that are None are found.
        normalize: Rescale vectors of any length to unit length.
        corpus: Native vectors that queries will search, if the index holds more than the pairs.
        store: URL of the store of which the pairs are a sample: the entry records it, and messages name it.
        show_progress: Show progress bars on stderr.

    Returns:
        The folder of the entry.

    Raises:
        BadInput: A file, a column or a vector is invalid, there are too few pairs, or the prior is not linear.
        Conflict: The entry exists already.
        FingerprintMismatch: The column x differs from the source encoder's embeddings of the column text; its metadata
            names another encoder; or the named prior was fitted on another encoder.
        UnknownName: The source encoder has no such prompt, or no entry has the name of the prior.
    """
    if family is not None:
        check_family(family)
    folder = out / format_entry_name(source, target, flavor)
    if folder.exists() and not replace_entry:
        raise Conflict(f"{folder} exists already. Choose another `flavor`, or set `replace_entry`.")
    encoder = load_encoder(source.id) if source.local else None
    if prompt is not None:
        if encoder is None:
            raise BadInput(f"{source.id} has no local encoder, so it takes no prompt {prompt!r}. Leave it out.")
        encoder = encoder.with_prompt(prompt)
    facts = encoder.spec.facts() if encoder else provider_facts(source)
    columns, where = columns or Columns(), store or str(pairs[0])
    files = [*pairs, *tests.values()]
    assumed = check_source_files(files, facts, "this adapter", assume_source, columns.source or "x")
    ignore_prior = family not in (None, "linear") and prior == AUTO_PRIOR
    start = None if ignore_prior else find_prior(source, target, facts, prior, flavor)
    with _scratch_beside(out) as scratch:
        read_test = partial(_read_test_pairs, columns=columns, normalize=normalize)
        test_pairs = {name: read_test(path, source, target, encoder) for name, path in tests.items()}
        train = _read_checked(pairs, source, target, encoder, scratch, columns, normalize)
        if start and train.x is not None:
            check_source_sample(load_quality_part(start, load_adapter(start)), train.x, where, assume_source)
        test_sets = {
            name: split_test_pairs(_embed(rows, str(tests[name]), source, encoder), str(tests[name]), source.id)
            for name, rows in test_pairs.items()
        }
        train = _embed(train, where, source, encoder, scratch)
        assert train.x is not None
        logger.info(f"{len(train.y):,} pairs read")
        kept = ~find_test_duplicates(train, test_sets, near_duplicate_cosine)
        groups = list(compress(train.group, kept)) if train.group else None
        if test_sets:
            logger.info(f"{(~kept).sum():,} pairs left out as near-duplicates of test queries")
        logger.info(f"fitting{f', starting from {start.name}' if start else ''}")
        x, y = (_select_rows(vectors, kept, scratch) for vectors in (train.x, train.y))
        blocks = composite_blocks(encoder.spec) if encoder else {}
        fitted = fit(
            x,
            y,
            prior=_load_prior(start, y.shape[1]) if start else None,
            family=family or (AUTO if train.text is None and start is None else "linear"),
            groups=groups,
            corpus=corpus,
            foreign=_embed_junk(train.text, encoder, seed),
            blocks=blocks,
            seed=seed,
            show_progress=show_progress,
        )
        overlap = {name: count_equal_rows(test.corpus_y, y) for name, test in test_sets.items()}
    report = fitted.report | {
        "near_duplicates": int((~kept).sum()),
        "near_duplicate_cosine": near_duplicate_cosine,
        "fitted_corpus_rows": overlap,
        "seed": seed,
    }
    report |= {"prior": start.name if start else "none"} | assumed | ({"store": store} if store else {})
    metrics = {
        name: held_out_metrics(test, {p: fitted.apply(test.x, p) for p in PURPOSES}, blocks)
        for name, test in test_sets.items()
    }
    _add_target(target, out)
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
    logger.info(verdict(report, source.alias))
    return entry


def _add_target(target: Space, out: Path) -> None:
    """Describe a target that no registry knows in the registry `out`."""
    try:
        find_space(target.id, out if out.is_dir() else None)
    except UnknownName:
        add_space(target, out)
        logger.info(f"{target.id} is a new space of width {target.width}; {out / 'spaces.toml'} describes it")


def find_prior(source: Space, target: Space, facts: Mapping[str, Any], name: str, flavor: str) -> Entry | None:
    """Find the entry that a fit starts from: by name, or for `auto` the flavor `small` of the pair, or the only one.

    `auto` skips an entry of the same flavor: an earlier fit may have used the same pairs.

    Raises:
        UnknownName: No entry has the name.
        BadInput: The named entry is not a linear adapter between these spaces.
        FingerprintMismatch: The named entry was fitted on another encoder.
    """
    if name == NO_PRIOR:
        return None
    if name == AUTO_PRIOR:
        try:
            flavors = list_flavors(source.id, target.id)
            entry = read_entry(flavors[choose_flavor(flavors, None, "")]) if flavors else None
        except UnknownName:
            return None
        if entry is None:
            return None
        is_usable = entry.family == "linear" and entry.flavor != flavor and is_same_encoder(entry.encoder, facts)
        return entry if is_usable else None
    entry = find_entry_by_name(name)
    if (entry.source, entry.target, entry.family) != (source.id, target.id, "linear"):
        raise BadInput(
            f"{name} is a {entry.family} adapter from {entry.source} to {entry.target}; a prior must be a linear one "
            f"from {source.id} to {target.id}."
        )
    check_source(entry.encoder, facts, source.id, entry.name)
    return entry


def _load_prior(entry: Entry, width: int) -> Adapter | Quality:
    """Load the quality part of an entry; for shortened targets, its shortened adapter."""
    adapter = load_adapter(entry, dtype="float32")
    return load_quality_part(entry, adapter) if width == entry.d_out else truncate(adapter, width)


def composite_blocks(spec: EncoderSpec) -> dict[str, slice]:
    """Find the columns of each member of a composite that are its own embedding: its last hidden state, or all."""
    blocks, end = {}, 0
    for member in spec.members:
        end += member.width
        width = member.width // max(1, len(member.layers))
        blocks[find_space(member.model).alias] = slice(end - width, end)
    return blocks


def _embed_junk(texts: Sequence[str] | None, encoder: Encoder | None, seed: int) -> Foreign | None:
    """Embed junk texts made from the words of the pairs; None without texts or without an encoder."""
    if not texts or encoder is None:
        return None
    junk = [text for kind in junk_texts(texts, JUNK, seed).values() for text in kind]
    return Foreign(junk=encoder(junk), ordinary=np.zeros((0, encoder.spec.dim or encoder.spec.width), np.float32))


@contextmanager
def _scratch_beside(out: Path) -> Iterator[Path]:
    """A temporary folder for arrays larger than memory, on the disk of `out`."""
    existing = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    with TemporaryDirectory(dir=existing, prefix=".fit-") as scratch:
        yield Path(scratch)


def _select_rows(
    vectors: Float[np.ndarray, "n d"], mask: Bool[np.ndarray, " n"], scratch: Path
) -> Float[np.ndarray, "m d"]:
    """Select rows into a new array in `scratch`, block by block; return the array itself if all are selected."""
    if mask.all():
        return vectors
    blocks = [slice(start, start + BLOCK) for start in range(0, len(mask), BLOCK)]
    return stacked((vectors[block][mask[block]] for block in blocks), scratch)


def _read_checked(
    paths: Sequence[Path],
    source: Space,
    target: Space,
    encoder: Encoder | None,
    scratch: Path | None = None,
    columns: Columns | None = None,
    normalize: bool = False,
) -> Pairs:
    """Read pairs and check their vectors, without embedding their texts."""
    where = str(paths[0])
    rules = {"x": vector_rule(source, normalize), "y": vector_rule(target, normalize)}
    if target.matryoshka:  # may be shortened
        rules["y"] = replace(rules["y"], width=None)
    pairs = read_pairs(paths, scratch, columns, rules)
    if pairs.y.shape[1] > target.width:
        raise BadInput(f"{where}, column y has width {pairs.y.shape[1]}, but {target.id} has width {target.width}.")
    if pairs.x is None and (encoder is None or pairs.text is None):
        raise BadInput(f"{where} has no column x, and {source.id} does not run here to embed the texts.")
    return pairs


def _embed(pairs: Pairs, where: str, source: Space, encoder: Encoder | None, scratch: Path | None = None) -> Pairs:
    """Embed the texts of pairs without x; where x is present, compare a sample of it with embeddings of the texts.

    Raises:
        FingerprintMismatch: The sample differs from the embeddings.
    """
    if encoder is None or pairs.text is None:
        return pairs
    if pairs.x is None:
        return replace(pairs, x=embed_texts(encoder, pairs.text, where, scratch))
    rows = np.linspace(0, len(pairs.text) - 1, min(SPOT_CHECKS, len(pairs.text))).astype(int)
    cosine = np.min(np.sum(encoder([pairs.text[row] for row in rows]) * unit(pairs.x[rows]), axis=1))
    if cosine < MIN_SPOT_COSINE:
        raise FingerprintMismatch(
            f"{where}: column x is not what {source.id} makes of column text (cosine {cosine:.3f} in a spot check). "
            "Leave x out to have the texts embedded here."
        )
    return pairs


def read_test_set(path: Path, source: Space, target: Space, encoder: Encoder | None) -> HeldOut:
    """Read the queries and the corpus of a file or folder of test pairs, and embed texts without source vectors.

    Raises:
        BadInput, FingerprintMismatch: As `fit_entry`.
    """
    pairs = _read_test_pairs(path, source, target, encoder)
    return split_test_pairs(_embed(pairs, str(path), source, encoder), str(path), source.id)


def _read_test_pairs(
    path: Path,
    source: Space,
    target: Space,
    encoder: Encoder | None,
    columns: Columns | None = None,
    normalize: bool = False,
) -> Pairs:
    """Read and check test pairs without embedding their texts."""
    pairs = _read_checked([path], source, target, encoder, None, columns, normalize)
    _check_queries(pairs, str(path))
    return pairs


def _check_queries(pairs: Pairs, where: str) -> Bool[np.ndarray, " n"]:
    if pairs.query is None:
        raise BadInput(f"{where} needs the column query, true for the queries.")
    queries = int(pairs.query.sum())
    corpus = len(pairs.query) - queries
    if not queries or corpus < max(KS):
        raise BadInput(f"{where} has {queries} queries and a corpus of {corpus}; it needs at least 1 and {max(KS)}.")
    return pairs.query


def split_test_pairs(pairs: Pairs, where: str, model: str) -> HeldOut:
    """Split test pairs with both vectors into queries and corpus.

    Raises:
        BadInput: A column is missing, there is no query, or the corpus has fewer rows than the largest k.
    """
    is_query = _check_queries(pairs, where)
    if pairs.x is None:
        raise BadInput(f"{where} needs the column x, embeddings of {model}.")
    return HeldOut(pairs.x[is_query], pairs.y[is_query], pairs.x[~is_query], pairs.y[~is_query])


def find_test_duplicates(train: Pairs, tests: Mapping[str, HeldOut], cosine: float) -> Bool[np.ndarray, " n"]:
    """Whether each training pair has, in either space, this cosine or more to any test query."""
    assert train.x is not None
    is_duplicate = np.zeros(len(train.y), bool)
    for test in tests.values():
        is_duplicate |= near_duplicates(train.x, test.x, cosine) | near_duplicates(train.y, test.y, cosine)
    return is_duplicate


def count_equal_rows(corpus: Float[np.ndarray, "m d"], rows: Float[np.ndarray, "n d"]) -> int:
    """Count the corpus rows that are also among `rows`."""
    digests = [_digest(row) for row in corpus]
    equal = set(digests) & {_digest(row) for row in rows}
    return sum(digest in equal for digest in digests)


def _digest(row: Float[np.ndarray, " d"]) -> bytes:
    return hashlib.sha1(row.tobytes()).digest()


def provider_facts(source: Space) -> dict[str, Any]:
    """Encoder facts of a model without a local encoder: its id."""
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
    """Write `<root>/<source>--<target>--<flavor>/`. An existing entry is replaced once the new one is complete.

    Args:
        root: Registry folder; created if missing.
        fitted: Result of `fit`.
        source: Source space.
        target: Target space.
        flavor: Name of the adapter among those of the two spaces.
        encoder: Facts of the source encoder, with their fingerprint.
        metrics: Results of `held_out_metrics` by test set.
        description: A description of the pairs, for the card.

    Returns:
        The folder of the entry.
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
    name = format_entry_name(source, target, flavor)
    card = format_front_matter(name, (source, target), metrics, "apache-2.0")
    card += format_card(facts, source.alias, target.alias)
    return write_entry(
        root, name, facts, fitted.params, fitted.quality_params, quality_sizes(fitted.quality_params), card
    )
