"""Run the jobs of `ea-jax map` and `ea-jax embed`."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ea_jax.errors import BadInput

if TYPE_CHECKING:
    from ea_jax.adapters.spec import Purpose

logger = logging.getLogger(__name__)
STDOUT, STDERR = 1, 2  # file descriptors


def run_files(
    inputs: list[str],
    out: str,
    config: dict[str, Any],
    options: dict[str, Any],
    layout: dict[str, Any],
    rejects: Path | None,
    device: str | None,
    distributed: bool = False,
    workers: int = 0,
) -> None:
    """Run a job and print the path of its output. With workers, run it on Ray."""
    if options["skip"] and rejects is None:
        raise BadInput("--on-error skip requires --rejects FILE, which lists the skipped rows.")
    from ea_jax.cli.runtime import start_jax

    with stdout_to_stderr():
        if distributed:
            _join_cluster()
        start_jax(device)
        from ea_jax.batch.batch_map import BadRow, Options
        from ea_jax.batch.job import plan, run_job
        from ea_jax.batch.load import MapConfig, load_domain, load_map

        run = load_map(MapConfig(**config), Options(**options))
        domain = None if run.encode else run.quality or load_domain(MapConfig(**config))
        job, work = plan(inputs, out, run, domain=domain, **layout), None
        if workers:
            from ea_jax.integrations.ray import on_actors

            work = on_actors(job, MapConfig(**config), run.options, workers)
        try:
            report = run_job(job, run, rejects=rejects, show_progress=sys.stderr.isatty(), work=work)
        except BadRow as error:
            raise BadInput(f"{error} Use --on-error skip --rejects FILE to continue without such rows.") from error
    total = report.totals
    counts = f"{total.read:,} rows read, {total.written:,} written"
    counts += f", {total.rejected:,} rejected" if total.rejected else ""
    counts += f", {total.dropped:,} dropped" if total.dropped else ""
    logger.info(f"{counts}; {report.parts} of {report.of_parts} parts.")
    if total.truncated:
        logger.warning(f"{total.truncated:,} texts are longer than the encoder's limit and were cut.")
    if total.read and total.rejected == total.read:
        raise BadInput(f"All {total.read:,} rows were rejected; {rejects} lists the reasons.")
    print(out)


def run_stores(
    inputs: list[str],
    out: str,
    names: tuple[str, str, str | None],
    purpose: "Purpose",
    skip: bool,
    normalize: bool,
    publish: str | None,
    device: str | None,
    texts: bool = False,
    assume_source: bool = False,
) -> None:
    """Run a job between two stores, print the URL of its output, and log the command that undoes its publication."""
    from ea_jax.cli.runtime import start_jax
    from ea_jax.integrations.stores.urls import is_store_url, parse_store_url
    from ea_jax.registry.routes import resolve_route

    if len(inputs) != 1 or not (is_store_url(inputs[0]) and is_store_url(out)):
        raise BadInput("A job between stores takes one store as its input and one as its output.")
    source, target, flavor = names
    (entry,) = resolve_route([source, target], flavor)
    with stdout_to_stderr():
        start_jax(device)
        from ea_jax.workflows.store_jobs import map_between_stores

        job = map_between_stores(
            inputs[0],
            out,
            entry,
            purpose=purpose,
            texts=texts,
            skip_incomplete=skip,
            normalize=normalize,
            assume_source=assume_source,
            publish=publish,
            show_progress=sys.stderr.isatty(),
        )
    skipped = f", {job.report.skipped:,} skipped" if job.report.skipped else ""
    logger.info(f"{job.report.rows:,} rows written{skipped} in {job.report.seconds:.1f} s with {entry.name}")
    if job.published:
        public, current, previous = job.published
        command = [
            "ea-jax",
            "unpublish",
            str(parse_store_url(out).published_url(public)),
            public,
            current,
            previous or "",
        ]
        logger.info(f"published as {public}; to undo: {' '.join(filter(None, command))}")
    print(parse_store_url(out))


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Redirect everything printed to stdout to stderr, including the output of C++ libraries and Ray's threads."""
    if sys.stdout is None:  # closed, and its descriptor may belong to another file
        yield
        return
    sys.stdout.flush()
    saved = os.dup(STDOUT)
    os.dup2(STDERR, STDOUT)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, STDOUT)
        os.close(saved)


def _join_cluster() -> None:
    """Connect to the other processes of a job through JAX.

    Raises:
        BadInput: There are none, or they cannot be reached.
    """
    import jax

    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise BadInput(
            f"--distributed found no cluster ({str(error).splitlines()[0].rstrip('.')}). JAX knows those of Slurm, "
            "Open MPI, Kubernetes and Cloud TPU; elsewhere, split the input by files and run a job for each."
        ) from error
