"""What the commands over files share: their choices, and the run of a job."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ea_jax.errors import BadInput

STDOUT, STDERR = 1, 2  # file descriptors


def run_files(
    given: list[str],
    out: Path,
    names: dict[str, Any],
    options: dict[str, Any],
    how: dict[str, Any],
    rejects: Path | None,
    device: str | None,
    distributed: bool = False,
    workers: int = 0,
) -> None:
    """Run a job and print where its output is; with workers, on Ray."""
    if options["skip"] and rejects is None:
        raise BadInput("--on-error skip needs --rejects FILE, where the rows are listed.")
    from ea_jax.cli.runtime import start_jax

    with others_on_stderr():
        if distributed:
            _join_cluster()
        start_jax(device)
        from ea_jax.batch.batch_map import Options
        from ea_jax.batch.job import plan, run_job
        from ea_jax.batch.load import Names, load_map

        run = load_map(Names(**names), Options(**options))
        job, work = plan(given, out, run, **how), None
        if workers:
            from ea_jax.integrations.ray import on_actors

            work = on_actors(job, Names(**names), run.options, workers)
        report = run_job(job, run, rejects=rejects, show_progress=sys.stderr.isatty(), work=work)
    total = report.totals
    said = f"{total.read:,} rows read, {total.written:,} written"
    said += f", {total.rejected:,} rejected" * bool(total.rejected) + f", {total.dropped:,} dropped" * bool(
        total.dropped
    )
    print(f"ea-jax: {said}; {report.parts} of {report.of_parts} parts.", file=sys.stderr)
    print(out)


@contextmanager
def others_on_stderr() -> Iterator[None]:
    """What is printed meanwhile goes to stderr, whoever prints it: libraries in C++ do, and a thread of Ray."""
    if sys.stdout is None:  # closed, and its number may be another file's
        yield
        return
    sys.stdout.flush()
    kept = os.dup(STDOUT)
    os.dup2(STDERR, STDOUT)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, STDOUT)
        os.close(kept)


def _join_cluster() -> None:
    """Find the other processes of a job, as JAX does.

    Raises:
        BadInput: It finds none, or does not reach them.
    """
    import jax

    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise BadInput(
            f"--distributed finds no cluster ({str(error).splitlines()[0].rstrip('.')}). JAX knows those of Slurm, "
            "Open MPI, Kubernetes and Cloud TPU; elsewhere, split the input by files and run a job for each."
        ) from error
