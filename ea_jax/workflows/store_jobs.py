"""Operations of the commands on stores: sample pairs for a fit or an evaluation, map, and check."""

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from ea_jax.adapters.spec import Purpose
from ea_jax.batch import map_array
from ea_jax.embeddings import LENGTH_TOLERANCE
from ea_jax.errors import BadInput, UnknownName
from ea_jax.integrations.stores import Description, Layout, Published, Store, open_store, parse_store_url
from ea_jax.integrations.stores.rows import check_widths, vectors_to_numpy
from ea_jax.integrations.stores.urls import COLUMN_ENGINES
from ea_jax.loading import load_adapter, load_quality_part, load_source_encoder
from ea_jax.progress import progress_bar
from ea_jax.quality.source_check import SAMPLE_ROWS, check_source_sample
from ea_jax.registry.entry import Entry
from ea_jax.registry.identification import LEAST_ROWS, LEAST_WIDTH
from ea_jax.registry.identification import identify as identify_model
from ea_jax.registry.locations import BUNDLED, user_folder
from ea_jax.registry.spaces import Space, find_space
from ea_jax.workflows.check_store import StoreReport, check_store
from ea_jax.workflows.map_store import MapReport, map_store
from ea_jax.workflows.sample_store import HELD_OUT, EvaluationSample, StoreSample, sample_queries, sample_store

logger = logging.getLogger(__name__)


class StoreJob(NamedTuple):
    """Report of a store-to-store job, and its publication (None if nothing was published)."""

    report: MapReport
    published: Published | None


@contextmanager
def sampled_pairs(url: str, rows: int, seed: int, show_progress: bool) -> Iterator[tuple[Path, StoreSample]]:
    """Write a sample for a fit to a temporary file of pairs, and remove it afterwards. Errors: `sample_store`."""
    with _temporary_pairs(url, show_progress) as (file, advance):
        sample = sample_store(url, file, rows, seed=seed, advance=advance)
        logger.info(f"{sample.pairs:,} of {sample.description.rows:,} rows of {sample.description.url} sampled")
        yield file, sample


@contextmanager
def sampled_queries(url: str, rows: int, seed: int, show_progress: bool) -> Iterator[tuple[Path, EvaluationSample]]:
    """Write a sample for an evaluation to a temporary file, and remove it afterwards. Errors: `sample_queries`."""
    with _temporary_pairs(url, show_progress) as (file, advance):
        yield file, sample_queries(url, file, rows, seed=seed, advance=advance)


@contextmanager
def _temporary_pairs(url: str, show_progress: bool) -> Iterator[tuple[Path, Callable[[int], None]]]:
    """Make a path for pairs of a store, and a progress bar. Errors that name the path name the store instead."""
    with TemporaryDirectory(prefix="ea-jax-") as folder, progress_bar("read", None, show_progress, unit="rows") as bar:
        file = Path(folder) / "pairs.parquet"
        try:
            yield file, bar
        except BadInput as error:
            raise type(error)(str(error).replace(str(file), str(parse_store_url(url)))) from error


def describe_sample(entry: Entry, sample: EvaluationSample) -> str:
    """Describe the evaluation set of a store, and say whether its queries are held out of the fit of an entry."""
    where, total = sample.description.url, sample.description.rows
    text = (
        f"The {sample.queries:,} queries are rows of {where} that fits on stores leave out (one in {HELD_OUT}, by a "
        f"hash of the id); they search {sample.corpus:,} other rows"
    )
    text += f" of {total:,}, and would find less among all." if sample.corpus + sample.queries < total else "."
    fitted_on = entry.training.get("store")
    if fitted_on == where:
        return f"{text} {entry.name} was fitted on other rows of this store."
    if fitted_on:
        return f"{text} {entry.name} was fitted on {fitted_on}."
    if entry.path.parent == BUNDLED:
        return f"{text} {entry.name} is a bundled adapter, not fitted on this store."
    return f"{text} If {entry.name} was fitted on files with rows of this store, its scores are too high."


def find_target(name: str, sample: StoreSample, root: Path) -> Space:
    """Find the space of a store's vectors in all registries and in `root`. An unknown name is a space of their width.

    Raises:
        BadInput: The name is known, but the vectors have another width.
    """
    width = sample.corpus.shape[1]
    try:
        space = find_space(name, root if root.is_dir() else None)
    except UnknownName:
        norms = np.linalg.norm(sample.corpus, axis=1)
        return Space(name, width, bool(np.abs(norms - 1).max() <= LENGTH_TOLERANCE), local=False)
    if width != space.width and not (space.matryoshka and width < space.width):
        raise BadInput(
            f"{sample.description.url} holds vectors of width {width}, but {space.id} has width {space.width}. "
            "`ea-jax identify` names the model that made vectors."
        )
    return space


def open_target(source: Store, description: Description, url: str, width: int, publish: str | None = None) -> Store:
    """Open the target, and create it if it does not exist.

    In the same location, it is a sibling of the source. Where siblings are columns, that is a column of the same table,
    and another table is a separate store.

    Raises:
        BadInput, Conflict: `publish` is a name under which the target cannot be published, before it is created.
    """
    target = parse_store_url(url)
    if (target.engine, target.location) == (source.url.engine, source.url.location):
        is_column = target.name == source.url.name and target.vector
        if is_column or target.engine not in COLUMN_ENGINES:
            name = str(target.vector if is_column else target.name)
            if publish:
                source.check_public(publish, name)
            return source.create_sibling(name, width)
    id_type = description.id_type if target.engine != "qdrant" else "integer or uuid"
    store = open_store(target, create=Layout(width, description.metric or "cosine", id_type))
    try:
        if publish:
            store.check_public(publish, target.name)
    except BaseException:
        store.close()
        raise
    return store


def _first_vectors(store: Store, n: int) -> Float32[np.ndarray, "m d"]:
    """Read the vectors of the first n rows that have one."""
    parts, missing = [], n
    for rows, _ in store.read(("id", "vector"), n):
        present = rows.filter(rows.column("vector").is_valid()).slice(0, missing)
        parts += [vectors_to_numpy(present)] if len(present) else []
        missing -= len(present)
        if not missing:
            break
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def map_between_stores(
    source_url: str,
    target_url: str,
    entry: Entry,
    *,
    purpose: Purpose = "store",
    texts: bool = False,
    skip_incomplete: bool = False,
    normalize: bool = False,
    assume_source: bool = False,
    publish: str | None = None,
    show_progress: bool = False,
) -> StoreJob:
    """Map the vectors (or embed the texts) of a store into another one, resumably.

    A rerun after an interruption continues; a rerun of a finished job starts again, which changes nothing.

    Args:
        source_url: Store to read.
        target_url: Store to write; a collection, table or column that does not exist is created.
        entry: Adapter from the source vectors, or from its own encoder's embeddings of the texts.
        purpose: Purpose of the vectors.
        texts: Whether to embed the texts instead of mapping the vectors.
        skip_incomplete: Skip rows without a text or vector instead of stopping.
        normalize: Rescale source vectors of any length to unit length.
        assume_source: Map vectors that look like another model's.
        publish: Name under which readers get the new vectors when the job is done.
        show_progress: Show a progress bar on stderr.

    Raises:
        BadInput: A store, a row, the width of the vectors or the name to publish is wrong.
        FingerprintMismatch: The vectors look like another model's, and `assume_source` is not set.
        StoreUnavailable: A store cannot be reached.
    """
    adapt = load_adapter(entry, purpose)
    encode = load_source_encoder(entry) if texts else None

    def convert(rows: Any) -> Any:
        x = rows if encode is None else encode(rows)
        return map_array(adapt, x, normalize=normalize)

    with open_store(source_url) as source:
        description = source.describe()
        if not description.rows:
            raise BadInput(f"{source.url} has no rows to map.")
        check_widths(description)
        if not texts and description.width not in (None, entry.d_in):
            raise BadInput(
                f"{source.url} holds vectors of width {description.width}, but {entry.name} maps width {entry.d_in}. "
                "Embed its texts instead, or choose another adapter."
            )
        if not texts:
            quality = load_quality_part(entry, adapt if purpose == "store" else load_adapter(entry))
            check_source_sample(quality, _first_vectors(source, SAMPLE_ROWS), str(source.url), assume_source)
        with (
            open_target(source, description, target_url, entry.d_out, publish) as target,
            progress_bar("map", description.rows, show_progress, unit="rows") as advance,
        ):
            job = _job_file(str(source.url), str(target.url), entry.name)
            report = map_store(
                source,
                target,
                convert,
                job,
                column="text" if texts else "vector",
                label=f"{entry.name} {purpose}",
                incomplete="skip" if skip_incomplete else "stop",
                advance=advance,
            )
            published = target.publish(publish) if publish else None
            job.unlink(missing_ok=True)
    return StoreJob(report, published)


def _job_file(*names: str) -> Path:
    """The file that holds the cursor of a job, in the user's cache."""
    folder = user_folder("cache") / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    return folder / f"{digest[:16]}.json"


def check_store_at(url: str, entry: Entry | None = None, *, show_progress: bool = False, seed: int = 0) -> StoreReport:
    """Check a store, and identify the model of its vectors.

    Args:
        url: Store URL.
        entry: Adapter into the space of the store's vectors. If set, each vector is compared with its text.
        show_progress: Show a progress bar on stderr.
        seed: Random seed of the sample.

    Raises:
        BadInput: The vectors have another width than those of the adapter.
    """
    with open_store(url) as store:
        total, width = store.describe().rows, store.describe().width
        if entry and width not in (None, entry.d_out):
            raise BadInput(
                f"{store.url} holds vectors of width {width}, but {entry.name} maps to width {entry.d_out}. Name the "
                "model that made them, or omit both models."
            )
        with progress_bar("check", total, show_progress, unit="rows") as advance:
            score = _scorer(entry) if entry else None
            return check_store(store, score=score, identify=_identify, seed=seed, advance=advance)


def _scorer(entry: Entry) -> Callable[[list[str], Any], Any]:
    """Return a function that gives the cosine between each vector and the adapted embedding of its text."""
    encode, adapt = load_source_encoder(entry), load_adapter(entry)

    def score(texts: list[str], vectors: Any) -> Any:
        y = map_array(adapt, encode(texts))
        return np.sum(y * vectors, axis=1) / np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)

    return score


def _identify(vectors: Any, texts: list[str]) -> str | None:
    usable = np.isfinite(vectors).all(axis=1) & (np.linalg.norm(vectors, axis=1) > 0)
    if usable.sum() < LEAST_ROWS or vectors.shape[1] < LEAST_WIDTH:
        return None
    return identify_model(vectors[usable]).space
