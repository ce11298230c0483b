"""Evaluate adapters on your own data: `ea-jax eval` and `ea-jax compare`."""

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ea_jax.cli.options import AssumeSource, Column, Delimiter, Flavor, IdColumn, Normalize, TargetColumn, TextColumn
from ea_jax.cli.output import print_columns
from ea_jax.errors import BadInput

if TYPE_CHECKING:
    from ea_jax.evaluation import Report
    from ea_jax.evaluation.compare import Comparison
    from ea_jax.registry.entry import Entry
    from ea_jax.workflows.evaluate_entry import EvaluationFiles

Pairs = Annotated[
    list[Path] | None,
    typer.Option("--pairs", help="Pairs: columns y, and x or text; optionally group and query (true for queries)."),
]
Texts = Annotated[list[Path] | None, typer.Option("--texts", help="Texts, if both models run locally.")]
Queries = Annotated[
    Path | None, typer.Option("--queries", help="Queries: columns x or text; optionally y, group and id.")
]
Corpus = Annotated[Path | None, typer.Option("--corpus", help="Corpus: columns y or text; optionally x and id.")]
Qrels = Annotated[
    Path | None, typer.Option("--qrels", help="Relevance judgments (TREC or BEIR): query id, corpus id, grade.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of all random sampling.")]
PIPE_WIDTH = 10_000  # columns: output that does not go to a terminal is never wrapped
logger = logging.getLogger(__name__)


class ProtocolName(StrEnum):
    """What counts as a hit."""

    agreement = "agreement"
    qa = "qa"


Protocol = Annotated[
    ProtocolName, typer.Option("--protocol", help="Measure agreement with the target model, or answers to questions.")
]


def evaluate(
    source: Annotated[str, typer.Option(help="Model of the column x, or that embeds the texts.")],
    target: Annotated[str, typer.Option(help="Model of the column y.")],
    store: Annotated[str | None, typer.Argument(help="URL of a vector store to sample, instead of files.")] = None,
    pairs: Pairs = None,
    texts: Texts = None,
    queries: Queries = None,
    corpus: Corpus = None,
    qrels: Qrels = None,
    flavor: Flavor = None,
    protocol: Protocol = ProtocolName.agreement,
    column: Column = None,
    text_column: TextColumn = None,
    target_column: TargetColumn = None,
    id_column: IdColumn = None,
    delimiter: Delimiter = None,
    normalize: Normalize = False,
    assume_source: AssumeSource = False,
    as_json: AsJson = False,
    report: Annotated[Path | None, typer.Option(help="Also write a web page with charts to this file.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Largest number of rows sampled from a store.")] = 10_000,
    require: Annotated[
        list[str] | None,
        typer.Option(help='Requirement such as "recall@10>=0.9", for exit code 1 otherwise; may be repeated.'),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Evaluate an adapter on your own data, next to keeping the source model, with 95 % intervals.

    agreement: how often is the corpus row that the target model ranks first in the top k? qa: how often is an answer,
    over all questions and over those with high confidence? Without --qrels, corpus row i answers query i.

    In a vector store, the queries are rows that no fit on a store takes: one in ten, by a hash of the id.

    Example: ea-jax eval --source minilm --target oai-3-small --pairs pairs.parquet --report report.html

    Example: ea-jax eval qdrant:./db#docs --source minilm-plus --target oai-3-small --require "recall@10>=0.9"
    """
    requirements = [_parse_requirement(text) for text in require or []]
    from ea_jax.cli.runtime import start_jax
    from ea_jax.registry.routes import resolve_route

    if store is not None and (pairs or texts or queries or corpus):
        raise BadInput("Evaluate on a store, or on files.")
    (entry,) = resolve_route([source, target], flavor)
    if report is not None and not report.absolute().parent.is_dir():
        raise BadInput(f"{report} cannot be written: {report.parent} is not a folder. Make it first.")
    start_jax()
    from ea_jax.workflows.evaluate_entry import evaluate_files

    names = (column, text_column, target_column, id_column, delimiter)
    with _sampled(store, entry, rows, seed, normalize) as sampled:
        files = sampled or _evaluation_files(pairs, texts, queries, corpus, qrels, assume_source, names, normalize)
        result = evaluate_files(entry, files, protocol=protocol.value, seed=seed)
    if report is not None:
        result.save_html(report)
        logger.info(f"{report} written")
    if as_json:
        print(result.to_json())
    else:
        _print_report(result)
    failures = [text for text, meets in requirements if not meets(result)]
    for text in failures:
        logger.error(f"The requirement {text} is not met.")
    if failures:
        raise typer.Exit(1)


def compare(
    a: Annotated[str, typer.Argument(help="Name of an adapter, as `ea-jax list` shows it, or JSON of `eval --json`.")],
    b: Annotated[str, typer.Argument(help="The same for B, over the same queries.")],
    pairs: Pairs = None,
    texts: Texts = None,
    queries: Queries = None,
    corpus: Corpus = None,
    qrels: Qrels = None,
    protocol: Protocol = ProtocolName.agreement,
    column: Column = None,
    text_column: TextColumn = None,
    target_column: TargetColumn = None,
    id_column: IdColumn = None,
    delimiter: Delimiter = None,
    normalize: Normalize = False,
    assume_source: AssumeSource = False,
    as_json: AsJson = False,
    seed: Seed = 0,
) -> None:
    """Test whether adapter B is better than A over the same queries, with a paired bootstrap.

    Named adapters are evaluated on files, as with `ea-jax eval`. The p values are not corrected for the number of
    metrics.

    Example: ea-jax compare minilm--oai-3-small--small minilm--oai-3-small--large --pairs pairs.parquet
    """
    from ea_jax.evaluation.compare import compare_reports, read_report
    from ea_jax.evaluation.results import to_plain

    if Path(a).suffix == Path(b).suffix == ".json":
        try:
            saved_a, saved_b = read_report(Path(a)), read_report(Path(b))
        except BadInput as error:
            raise BadInput(f"{error} `ea-jax eval --json` writes a report.") from error
        comparisons = compare_reports(saved_a, saved_b, seed)
    elif not (pairs or texts or queries or corpus):
        raise BadInput(
            "Named adapters are compared on --pairs, --texts, or --queries and --corpus. To compare reports, give two "
            ".json files."
        )
    else:
        from ea_jax.cli.runtime import start_jax
        from ea_jax.registry.remotes import resolve_entry_by_name

        entries = [resolve_entry_by_name(name) for name in (a, b)]
        start_jax()
        from ea_jax.workflows.evaluate_entry import evaluate_files

        names = (column, text_column, target_column, id_column, delimiter)
        files = _evaluation_files(pairs, texts, queries, corpus, qrels, assume_source, names, normalize)
        report_a, report_b = (evaluate_files(entry, files, protocol=protocol.value, seed=seed) for entry in entries)
        comparisons = compare_reports(report_a, report_b, seed)
    if as_json:
        print(json.dumps(to_plain(comparisons), allow_nan=False))
    else:
        _print_comparisons(comparisons)


@contextmanager
def _sampled(
    store: str | None, entry: "Entry", rows: int, seed: int, normalize: bool
) -> Iterator["EvaluationFiles | None"]:
    """Sample a store into a file of pairs; None without a store."""
    if store is None:
        yield None
        return
    from ea_jax.workflows.evaluate_entry import EvaluationFiles
    from ea_jax.workflows.store_jobs import describe_sample, sampled_queries

    with sampled_queries(store, rows, seed, sys.stderr.isatty()) as (file, sample):
        notes = (describe_sample(entry, sample),)
        yield EvaluationFiles([file], normalize=normalize, store=sample.description.url, notes=notes)


def _parse_requirement(text: str) -> tuple[str, Callable[["Report"], bool]]:
    """Parse `CONDITION/METRIC>=VALUE`; the condition is `adapter` by default."""
    match = re.fullmatch(r"\s*(?:(\w+)/)?([\w@]+)\s*(>=|<=)\s*([0-9.]+)\s*", text)
    if match is None:
        raise BadInput(f'--require {text!r} is not like "recall@10>=0.9" or "adapter_store/recall@1>=0.5".')
    condition, metric, sign, value = match[1] or "adapter", match[2], match[3], float(match[4])

    def meets(report: "Report") -> bool:
        estimates = report.conditions.get(condition, {})
        if metric not in estimates:
            known = ", ".join(f"{c}/{m}" for c, metrics in report.conditions.items() for m in metrics)
            raise BadInput(f"--require {text!r} names no measured metric. Known: {known}.")
        observed = estimates[metric].value
        return observed >= value if sign == ">=" else observed <= value

    return text, meets


def _evaluation_files(
    pairs: list[Path] | None,
    texts: list[Path] | None,
    queries: Path | None,
    corpus: Path | None,
    qrels: Path | None,
    assume_source: bool,
    names: tuple[str | None, ...],
    normalize: bool,
) -> "EvaluationFiles":
    from ea_jax.data.columns import Columns
    from ea_jax.workflows.evaluate_entry import EvaluationFiles

    try:
        return EvaluationFiles(
            pairs or (), texts or (), queries, corpus, qrels, assume_source, Columns(*names), normalize
        )
    except BadInput as error:
        raise BadInput(f"{error} The options are --pairs, --texts, --queries, --corpus and --qrels.") from error


def _print_report(report: "Report") -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    console.print(report.table())


def _print_comparisons(comparisons: Mapping[str, "Comparison"]) -> None:
    rows = [
        (
            name,
            f"{c.a:.4f}",
            f"{c.b:.4f}",
            f"{c.value:+.4f}",
            f"{c.low:+.4f} to {c.high:+.4f}",
            f"{c.p_value:.3f}",
            c.verdict,
        )
        for name, c in comparisons.items()
    ]
    print_columns([("metric", "A", "B", "B - A", "95 % interval", "p", "verdict"), *rows])


COMMANDS = {evaluate: "eval", compare: "compare"}
