"""Collect pairs: request a provider's vectors for texts, or join the files of OpenAI's Batch API."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from ea_jax.data.partial_pairs import Job, check_parts, completed_rows, merge_parts, parts_folder, save_part, start_job
from ea_jax.data.texts import Texts
from ea_jax.errors import BadInput, Conflict, UnknownName
from ea_jax.progress import progress_bar
from ea_jax.providers.openai_batch import read_batch
from ea_jax.providers.openai_compatible import (
    TOO_LONG_ACTIONS,
    Endpoint,
    TooLong,
    open_client,
    resolve_base_url,
)
from ea_jax.providers.vectors import check_dimensions
from ea_jax.registry.spaces import Space, find_space

PRICES = {"text-embedding-3-small": 0.02, "text-embedding-3-large": 0.13, "text-embedding-ada-002": 0.10}
PRICES_DATE = "May 2026"  # when OpenAI listed these prices, in USD per million tokens
TOKEN_BYTES = 4  # of UTF-8, in ordinary English
MAX_TEXTS = 2048  # of a request
MAX_BYTES = 300_000  # of a request, which may have 300,000 tokens: no token is shorter than a byte
MIN_PROGRESS = 256  # texts; fewer finish before a progress bar is readable
MAX_LISTED = 20  # failures of a batch that are listed
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Estimate:
    """Size and cost of a collection, before it starts.

    Attributes:
        texts: Number of distinct texts.
        duplicates: Number of repeated texts, which are left out.
        done: Number of texts whose vectors an earlier run received.
        tokens: Estimated number of tokens of the other texts.
        price: USD per million tokens; None if unknown.
    """

    texts: int
    duplicates: int
    done: int
    tokens: int
    price: float | None

    @property
    def cost(self) -> float | None:
        """Estimated cost in USD."""
        return None if self.price is None else self.tokens * self.price / 1e6

    def __str__(self) -> str:
        done = f", {self.done:,} of them done before" if self.done else ""
        duplicates = f" ({self.duplicates:,} duplicates are left out)" if self.duplicates else ""
        tokens = f"about {self.tokens:,} tokens (estimated at {TOKEN_BYTES} bytes each)"
        cost = "at an unknown price"
        if self.cost is not None:
            cost = f"about {format_dollars(self.cost)} at ${self.price} per million"
        return f"{self.texts:,} texts{duplicates}{done}; to request: {tokens}, {cost}"


def format_dollars(cost: float) -> str:
    """Format an amount with cents, or with more digits if it is less than ten cents."""
    return f"${cost:,.2f}" if cost >= 0.1 else f"${cost:.5f}"


def collect_pairs(
    texts: Texts,
    target: str,
    out: Path,
    *,
    approve: Callable[[Estimate], bool],
    model: str | None = None,
    base_url: str | None = None,
    dimensions: int | None = None,
    too_long: TooLong = "error",
    price: float | None = None,
    batch_size: int = 256,
    workers: int = 4,
    force: bool = False,
    show_progress: bool = False,
) -> Path | None:
    """Request a provider's vectors for texts, and write both as pairs.

    Finished requests are kept beside `out`: after an interruption, the same call requests only the rest.

    Args:
        texts: Texts to embed, from `read_texts` or `distinct`.
        target: Space of the vectors, by id or alias.
        out: Parquet file to write, with the columns text, y and, if the texts have groups, group.
        approve: Receives the estimate; if it returns False, nothing is requested.
        model: The provider's name for the model; optional for spaces of OpenAI.
        base_url: Address of the endpoint; that of the environment, or OpenAI's, if None.
        dimensions: Width to request: that of the space, or less for Matryoshka models.
        too_long: Action for texts that the model refuses for their length: `error`, `skip` them, or `cut` them. The
            column text keeps the whole text.
        price: USD per million tokens; the listed price if None.
        batch_size: Maximum number of texts in a request.
        workers: Maximum number of requests at a time.
        force: Replace an existing `out`.
        show_progress: Show a progress bar on stderr.

    Returns:
        `out`, or None if the estimate was not approved.

    Raises:
        Conflict: `out` exists, or its partial results belong to other texts or another model.
        BadInput: An argument is out of range, the provider refuses a request, or its answers are not vectors of the
            space.
        Unavailable: The provider stays busy or unreachable.
        UnknownName: There is no such space.
    """
    space = find_space(target)
    _check_out(out, force)
    check_dimensions(space, dimensions)
    if not 1 <= batch_size <= MAX_TEXTS:
        raise BadInput(f"batch_size is {batch_size}; a request takes from 1 to {MAX_TEXTS} texts.")
    if workers < 1:
        raise BadInput(f"workers is {workers}; it must be 1 or more.")
    if too_long not in TOO_LONG_ACTIONS:
        raise BadInput(f"too_long is {too_long!r}; it must be one of {', '.join(TOO_LONG_ACTIONS)}.")
    name = _model_name(space, model, resolve_base_url(base_url))
    job = Job(texts, space.id, name, dimensions or space.width)
    folder = parts_folder(out)
    check_parts(folder, job)
    done = completed_rows(folder, job)
    if not approve(_estimate(job, done, price)):
        return None
    if not done.all():
        with open_client(base_url) as client:
            start_job(folder, job)
            endpoint = Endpoint(client, job.model, space, dimensions, too_long)
            _request_all(
                endpoint, folder, texts.text, plan_requests(texts.text, done, batch_size), workers, show_progress
            )
    _check_out(out, force)
    merge_parts(folder, job, out)
    return out


def join_batch(
    requests: Sequence[Path],
    results: Sequence[Path],
    target: str,
    out: Path,
    *,
    dimensions: int | None = None,
    force: bool = False,
) -> Path:
    """Write the texts and vectors of OpenAI Batch files as pairs. Repeated texts are left out.

    Args:
        requests: Request files, as they were uploaded.
        results: Output and error files of the batches.
        target: Space of the vectors, by id or alias.
        out: Parquet file to write, with the columns text and y.
        dimensions: Width of the vectors; that of the requests, or of the space, if None.
        force: Replace an existing `out`.

    Returns:
        `out`.

    Raises:
        Conflict: `out` exists, or has partial results of another job.
        BadInput: The files do not belong together or to the space, or no request has vectors.
        UnknownName: There is no such space.
    """
    space = find_space(target)
    _check_out(out, force)
    batch = read_batch(requests, results, space, dimensions)
    for failure in batch.failures[:MAX_LISTED]:
        logger.info(f"no vectors for {failure}")
    if len(batch.failures) > MAX_LISTED:
        logger.info(f"no vectors for {len(batch.failures) - MAX_LISTED:,} other requests")
    if not batch.texts:
        raise BadInput("None of the requests has vectors. Nothing was written.")
    _check_model(space, batch.model)
    first: dict[str, int] = {}
    for row, text in enumerate(batch.texts):
        first.setdefault(text, row)
    duplicates = len(batch.texts) - len(first)
    job = Job(Texts(list(first), None, duplicates), space.id, batch.model, batch.vectors.shape[1])
    folder = parts_folder(out)
    check_parts(folder, job)
    start_job(folder, job)
    save_part(folder, 0, batch.vectors[list(first.values())])
    merge_parts(folder, job, out)
    repeated = f" ({duplicates:,} duplicates are left out)" if duplicates else ""
    logger.info(f"{len(first):,} pairs{repeated}; {len(batch.failures):,} requests without vectors")
    return out


def plan_requests(texts: Sequence[str], done: Bool[np.ndarray, " n"], batch_size: int) -> list[range]:
    """Group neighboring texts that are not done into requests of at most `batch_size` texts and MAX_BYTES bytes.

    The request with the longest text comes first: a text that the model refuses stops the job before it costs much.
    """
    requests: list[range] = []
    size = 0
    for row in np.flatnonzero(~done).tolist():
        added = len(texts[row].encode())
        last = requests[-1] if requests else range(0)
        if last and last.stop == row and len(last) < batch_size and size + added <= MAX_BYTES:
            requests[-1] = range(last.start, row + 1)
            size += added
        else:
            requests.append(range(row, row + 1))
            size = added
    return sorted(requests, key=lambda rows: -max(len(texts[row].encode()) for row in rows))


def _request_all(
    endpoint: Endpoint, folder: Path, texts: Sequence[str], requests: Sequence[range], workers: int, show_progress: bool
) -> None:
    """Send all requests and save each answer. After a failure no request starts, and running ones are still saved."""

    def request(rows: range) -> tuple[int, int]:
        try:
            answer = endpoint.embed(texts[rows.start : rows.stop], rows.start)
            if answer is None:
                return 0, 0
            save_part(folder, rows.start, answer.vectors)
        except BaseException:
            endpoint.stop.set()  # at once, before this thread takes the next request
            raise
        return len(rows), answer.tokens

    total, tokens = sum(map(len, requests)), 0
    with (
        progress_bar("Requesting", total, show_progress, min_total=MIN_PROGRESS) as advance,
        ThreadPoolExecutor(workers) as pool,
    ):
        try:
            futures = [pool.submit(request, rows) for rows in requests]
            for future in as_completed(futures):
                rows, counted = future.result()
                advance(rows)
                tokens += counted
        except KeyboardInterrupt:
            logger.info("stopping after the running requests, whose vectors are kept")
            raise
        finally:
            endpoint.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    logger.info(f"{total:,} texts requested; {endpoint.host} counted {tokens:,} tokens")


def _check_out(out: Path, force: bool) -> None:
    if out.suffix != ".parquet":
        raise BadInput(f"{out} must end in .parquet, the format of the pairs.")
    if out.exists() and not (force and out.is_file()):
        raise Conflict(f"{out} already exists. Choose another file, or force its replacement.")


def _check_model(space: Space, model: str) -> None:
    """Raise BadInput if the requests name a model of the same provider that is another known space."""
    provider = space.id.partition("/")[0]
    try:
        other = find_space(f"{provider}/{model}")
    except UnknownName:  # a deployment can have any name
        return
    if other.id != space.id:
        raise BadInput(f"The requests name the model {model}, but the target is {space.id}. Name that model's space.")


def _model_name(space: Space, model: str | None, address: str | None) -> str:
    provider, _, name = space.id.partition("/")
    if provider == "openai":
        return model or name
    if not model or not address:
        raise BadInput(f"{space.id} is not a model of OpenAI: name its endpoint, and its model there.")
    return model


def _estimate(job: Job, done: Bool[np.ndarray, " n"], price: float | None) -> Estimate:
    texts = job.texts
    size = sum(len(text.encode()) for text, is_done in zip(texts.text, done, strict=True) if not is_done)
    tokens = -(-size // TOKEN_BYTES)
    price = PRICES.get(job.model) if price is None else price
    return Estimate(len(texts.text), texts.duplicates, int(done.sum()), tokens, price)
