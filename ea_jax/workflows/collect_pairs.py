"""Texts to pairs: the vectors that a provider gives for texts, collected into a file that `fit` reads."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from ea_jax.data.partial_pairs import Job, begin_parts, check_parts, done_rows, finish, parts_folder, save_part
from ea_jax.data.texts import Texts
from ea_jax.errors import BadInput, Conflict
from ea_jax.progress import progress_bar
from ea_jax.providers.openai_compatible import Endpoint, base_address, open_client
from ea_jax.registry.spaces import Space, find_space

PRICES = {"text-embedding-3-small": 0.02, "text-embedding-3-large": 0.13, "text-embedding-ada-002": 0.10}
PRICES_OF = "May 2026"  # USD a million tokens, as OpenAI listed them then
TOKEN_BYTES = 4  # of UTF-8, in ordinary English
MOST_TEXTS = 2048  # of a request
MOST_BYTES = 300_000  # of a request, which takes 300,000 tokens: none is shorter than a byte
BAR = 256  # fewer texts are done before a bar is read


@dataclass(frozen=True)
class Estimate:
    """What a collection will take, before it starts.

    Attributes:
        texts: How many different texts there are.
        duplicates: How many more were left out.
        done: How many have their vectors from an earlier run.
        tokens: About how many tokens the others have.
        price: USD a million tokens; None where it is not known.
    """

    texts: int
    duplicates: int
    done: int
    tokens: int
    price: float | None

    @property
    def cost(self) -> float | None:
        """About how many USD."""
        return None if self.price is None else self.tokens * self.price / 1e6

    def __str__(self) -> str:
        done = f", {self.done:,} of them done earlier" if self.done else ""
        left_out = f" and {self.duplicates:,} duplicates, which are left out" if self.duplicates else ""
        tokens = f"about {self.tokens:,} tokens (an estimate: one is about {TOKEN_BYTES} bytes)"
        cost = "at an unknown price" if self.cost is None else f"about {dollars(self.cost)} at ${self.price} a million"
        return f"{self.texts:,} texts{left_out}{done}; to ask: {tokens}, {cost}"


def dollars(cost: float) -> str:
    """An amount for people: cents, or more digits where there are none."""
    return f"${cost:,.2f}" if cost >= 0.1 else f"${cost:.5f}"


def collect(
    texts: Texts,
    target: str,
    out: Path,
    *,
    approve: Callable[[Estimate], bool],
    say: Callable[[str], None],
    model: str | None = None,
    base_url: str | None = None,
    dimensions: int | None = None,
    price: float | None = None,
    batch_size: int = 256,
    workers: int = 4,
    force: bool = False,
    show_progress: bool = False,
) -> Path | None:
    """Ask a provider for the vectors of texts, and write both as pairs.

    Finished requests are kept beside `out`, so that after an interruption the same call asks only what is missing.

    Args:
        texts: What to embed; `read_texts` and `distinct` make them.
        target: Space of the vectors, by id or alias.
        out: Parquet file to write, with the columns text, y and, where there are groups, group.
        approve: Shown the estimate; where it returns False, nothing is asked.
        say: Told what is going on.
        model: The provider's name of the model; that of `openai/` spaces is known.
        base_url: The endpoint; that of the environment, or OpenAI's, if None.
        dimensions: The width to ask the model for, where it can shorten its vectors.
        price: USD a million tokens; the listed one if None.
        batch_size: The most texts of a request.
        workers: The most requests at a time.
        force: Whether an `out` that is there is replaced.
        show_progress: Draw a bar on stderr.

    Returns:
        `out`, or None where it was not approved.

    Raises:
        BadInput: `out` is there or is half-done with other texts or another model; an option is out of range; the
            provider refuses, stays away, or answers with what are no vectors of the space.
        UnknownName: There is no such space.
    """
    space = find_space(target)
    _check_options(out, space, dimensions, batch_size, workers, force)
    job = Job(texts, space.id, _model_name(space, model, base_address(base_url)), space.width)
    folder = parts_folder(out)
    check_parts(folder, job)
    done = done_rows(folder, job)
    if not approve(_estimate(job, done, price)):
        return None
    if not done.all():
        with open_client(base_url) as client:
            begin_parts(folder, job)
            endpoint = Endpoint(client, job.model, space, dimensions, say)
            _ask_all(endpoint, folder, texts.text, batches(texts.text, done, batch_size), workers, show_progress)
    _check_out(out, force)
    finish(folder, job, out)
    return out


def batches(texts: Sequence[str], done: Bool[np.ndarray, " n"], batch_size: int) -> list[range]:
    """Rows of each request: neighbours that are not done, as many as one may hold.

    The longest text comes first: one that the model does not take is refused before the others are paid.
    """
    found: list[range] = []
    held = 0
    for row in np.flatnonzero(~done).tolist():
        size = len(texts[row].encode())
        if found and found[-1].stop == row and len(found[-1]) < batch_size and held + size <= MOST_BYTES:
            found[-1] = range(found[-1].start, row + 1)
            held += size
        else:
            found.append(range(row, row + 1))
            held = size
    return sorted(found, key=lambda rows: -max(len(texts[row].encode()) for row in rows))


def _ask_all(
    endpoint: Endpoint, folder: Path, texts: Sequence[str], asked: Sequence[range], workers: int, show_progress: bool
) -> None:
    """Ask and keep every batch. After a failure no more are begun, and those under way are still kept."""

    def ask(rows: range) -> tuple[int, int]:
        try:
            answer = endpoint.embed(texts[rows.start : rows.stop], rows.start)
            if answer is None:
                return 0, 0
            save_part(folder, rows.start, answer.vectors)
        except BaseException:
            endpoint.stop.set()  # here already, before this thread takes up the next batch
            raise
        return len(rows), answer.tokens

    total, counted = sum(map(len, asked)), 0
    with progress_bar("Asking", total, show_progress, least=BAR) as advance, ThreadPoolExecutor(workers) as pool:
        try:
            futures = [pool.submit(ask, rows) for rows in asked]
            for future in as_completed(futures):
                rows, tokens = future.result()
                advance(rows)
                counted += tokens
        except KeyboardInterrupt:
            endpoint.say("stopping: the requests under way are waited for, and kept")
            raise
        finally:
            endpoint.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    endpoint.say(f"{total:,} texts asked; {endpoint.host} counted {counted:,} tokens")


def _check_options(out: Path, space: Space, dimensions: int | None, batch_size: int, workers: int, force: bool) -> None:
    if out.suffix != ".parquet":
        raise BadInput(f"{out} has to end in .parquet, which is what is written.")
    _check_out(out, force)
    if dimensions not in (None, space.width):
        raise BadInput(f"--dimensions is {dimensions}, but {space.id} has width {space.width}. They have to agree.")
    if not 1 <= batch_size <= MOST_TEXTS:
        raise BadInput(f"The batch size is {batch_size}; a request takes from 1 to {MOST_TEXTS} texts.")
    if workers < 1:
        raise BadInput(f"There are {workers} workers; it takes 1 or more.")


def _check_out(out: Path, force: bool) -> None:
    if out.exists() and not (force and out.is_file()):
        raise Conflict(f"{out} is there already. Name another --out, or replace it with --force.")


def _model_name(space: Space, model: str | None, address: str | None) -> str:
    provider, _, name = space.id.partition("/")
    if provider == "openai":
        return model or name
    if not model or not address:
        raise BadInput(
            f"{space.id} is not OpenAI's: name its endpoint with --base-url, and its model there with --model."
        )
    return model


def _estimate(job: Job, done: Bool[np.ndarray, " n"], price: float | None) -> Estimate:
    texts = job.texts
    size = sum(len(text.encode()) for text, there in zip(texts.text, done, strict=True) if not there)
    tokens = -(-size // TOKEN_BYTES)
    price = PRICES.get(job.model) if price is None else price
    return Estimate(len(texts.text), texts.duplicates, int(done.sum()), tokens, price)
