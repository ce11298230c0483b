"""Texts to pairs, by way of a provider: `ea-jax pairs`."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from ea_jax.errors import BadInput


def pairs(
    texts: Annotated[list[Path], typer.Argument(help="Files: .txt, .jsonl, .ndjson, .parquet; - for lines of stdin.")],
    target: Annotated[str, typer.Option(help="Model whose vectors are asked for, by id or alias.")],
    out: Annotated[Path, typer.Option(help="Parquet file of pairs to write.")],
    column: Annotated[str | None, typer.Option(help="Column of the texts, if several hold strings.")] = None,
    model: Annotated[str | None, typer.Option(help="The provider's name of the model, where it is another.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Endpoint; $OPENAI_BASE_URL or OpenAI's if not given.")] = None,
    dimensions: Annotated[int | None, typer.Option(help="Width to ask the model for; the target's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=2048, help="The most texts of a request.")] = 256,
    workers: Annotated[int, typer.Option(min=1, help="The most requests at a time.")] = 4,
    price: Annotated[
        float | None, typer.Option(min=0, help="USD a million tokens; the listed one if not given.")
    ] = None,
    limit: Annotated[float, typer.Option(min=0, help="USD above which it asks before it starts.")] = 1.0,
    yes: Annotated[bool, typer.Option("--yes", help="Start, whatever it costs.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the estimate and stop.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file of pairs that is there.")] = False,
) -> None:
    """Collect the vectors that OpenAI, or a compatible endpoint, gives for texts.

    The key comes from $OPENAI_API_KEY. After an interruption, the same command asks only what is missing.

    Example: ea-jax pairs notes.txt --target oai-3-small --out pairs.parquet
    """
    from ea_jax.data.texts import read_texts
    from ea_jax.workflows.collect_pairs import PRICES_OF, Estimate, collect, dollars

    def approve(estimate: Estimate) -> bool:
        listed = price is None and estimate.price is not None
        _say(f"{estimate}{f' ({PRICES_OF}; --price sets another)' if listed else ''}.")
        if dry_run or yes or estimate.cost is None or estimate.cost <= limit:
            return not dry_run
        over = f"That is above the limit of {dollars(limit)}"
        if not sys.stdin.isatty():
            raise BadInput(f"{over}, and there is no terminal to ask at: --yes starts anyway, --limit sets another.")
        with redirect_stdout(sys.stderr):  # err=True leaves a space on stdout
            return typer.confirm(f"{over}. Start?", err=True, abort=True)

    written = collect(
        read_texts(texts, column),
        target,
        out,
        approve=approve,
        say=_say,
        model=model,
        base_url=base_url,
        dimensions=dimensions,
        price=price,
        batch_size=batch_size,
        workers=workers,
        force=force,
        show_progress=sys.stderr.isatty(),
    )
    if written:
        print(written)


COMMANDS = {pairs: "pairs"}


def _say(message: str) -> None:
    print(f"ea-jax: {message}", file=sys.stderr)
