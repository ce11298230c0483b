"""Collect the vectors of an embedding API: `ea-jax pairs`."""

import logging
import sys
from contextlib import redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ea_jax.cli.options import Delimiter, TextsColumn
from ea_jax.errors import BadInput


class TooLong(StrEnum):
    """What happens to a text that the model refuses for its length."""

    error = "error"
    skip = "skip"
    cut = "cut"


logger = logging.getLogger(__name__)


def pairs(
    target: Annotated[str, typer.Option(help="Model whose vectors are collected, by id or alias.")],
    out: Annotated[Path, typer.Option(help="Parquet file of pairs to write.")],
    texts: Annotated[
        list[Path] | None, typer.Argument(help="Files and folders of texts; - for lines of stdin.")
    ] = None,
    column: TextsColumn = None,
    delimiter: Delimiter = None,
    skip_empty: Annotated[bool, typer.Option("--skip-empty", help="Leave out empty texts and blank lines.")] = False,
    too_long: Annotated[
        TooLong, typer.Option(help="What happens to texts beyond the model's limit. Cut texts are embedded in part.")
    ] = TooLong.error,
    model: Annotated[str | None, typer.Option(help="The provider's name for the model, if it differs.")] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Address of the endpoint; $OPENAI_BASE_URL or OpenAI's by default.")
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Width to request; less than the target's for Matryoshka models.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=2048, help="Maximum number of texts in a request.")] = 256,
    workers: Annotated[int, typer.Option(min=1, help="Maximum number of requests at a time.")] = 4,
    batch_requests: Annotated[
        list[Path] | None, typer.Option(help="Request file of OpenAI's Batch API, instead of texts; may be repeated.")
    ] = None,
    batch_results: Annotated[
        list[Path] | None, typer.Option(help="Output or error file of the batch; may be repeated.")
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0, help="USD per million tokens; the listed price by default.")
    ] = None,
    limit: Annotated[float, typer.Option(min=0, help="USD above which the command asks for confirmation.")] = 1.0,
    yes: Annotated[bool, typer.Option("--yes", help="Start without confirmation, whatever the cost.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the estimate and stop.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file of pairs.")] = False,
) -> None:
    """Collect the vectors that OpenAI, or a compatible endpoint, gives for texts.

    The key comes from $OPENAI_API_KEY. After an interruption, the same command requests only the missing vectors.
    With the files of a finished batch nothing is requested: texts and vectors are joined by custom_id.

    Example: ea-jax pairs notes.txt --target oai-3-small --out pairs.parquet
    """
    from ea_jax.data.texts import read_texts
    from ea_jax.workflows.collect_pairs import PRICES_DATE, Estimate, collect_pairs, format_dollars, join_batch

    if batch_requests or batch_results:
        if texts or not (batch_requests and batch_results):
            raise typer.BadParameter("--batch-requests and --batch-results go together, without files of texts.")
        print(join_batch(batch_requests, batch_results, target, out, dimensions=dimensions, force=force))
        return
    if not texts:
        raise typer.BadParameter("name files of texts, or --batch-requests and --batch-results.")

    def approve(estimate: Estimate) -> bool:
        listed = price is None and estimate.price is not None
        logger.info(f"{estimate}{f' ({PRICES_DATE}; --price sets another)' if listed else ''}.")
        if dry_run or yes or estimate.cost is None or estimate.cost <= limit:
            return not dry_run
        message = f"That is above the limit of {format_dollars(limit)}"
        if not sys.stdin.isatty():
            raise BadInput(
                f"{message}, and there is no terminal for a confirmation. Use --yes to start anyway, or raise --limit."
            )
        with redirect_stdout(sys.stderr):  # err=True prints a space to stdout
            return typer.confirm(f"{message}. Start?", err=True, abort=True)

    written = collect_pairs(
        read_texts(texts, column, delimiter, skip_empty=skip_empty),
        target,
        out,
        approve=approve,
        model=model,
        base_url=base_url,
        dimensions=dimensions,
        too_long=too_long.value,
        price=price,
        batch_size=batch_size,
        workers=workers,
        force=force,
        show_progress=sys.stderr.isatty(),
    )
    if written:
        print(written)


COMMANDS = {pairs: "pairs"}
