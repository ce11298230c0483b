"""How good is an adapter on your data, and is another better? `ea-jax eval` and `ea-jax compare`."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ea_jax.cli.options import AssumeSource
from ea_jax.errors import BadInput

Pairs = Annotated[list[Path] | None, typer.Option("--pairs", help="Pairs: y, and x or text; group, query.")]
Texts = Annotated[list[Path] | None, typer.Option("--texts", help="Texts, where both models run here.")]
Queries = Annotated[Path | None, typer.Option("--queries", help="Of queries: x or text, y, group, id.")]
Corpus = Annotated[Path | None, typer.Option("--corpus", help="Of the corpus: y or text, x, id.")]
Qrels = Annotated[Path | None, typer.Option("--qrels", help="Judgments of ids: query, row, grade.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Seed = Annotated[int, typer.Option("--seed", help="Of all sampling.")]


class ProtocolName(StrEnum):
    """What counts as found."""

    agreement = "agreement"
    qa = "qa"


Protocol = Annotated[
    ProtocolName, typer.Option("--protocol", help="agreement with the target model, or answers found.")
]


def evaluate(
    source: Annotated[str, typer.Option(help="Model that made the column x, or that embeds the texts.")],
    target: Annotated[str, typer.Option(help="Model of the column y.")],
    pairs: Pairs = None,
    texts: Texts = None,
    queries: Queries = None,
    corpus: Corpus = None,
    qrels: Qrels = None,
    flavor: Annotated[str | None, typer.Option(help="Which adapter, where there are several.")] = None,
    protocol: Protocol = ProtocolName.agreement,
    assume_source: AssumeSource = False,
    as_json: AsJson = False,
    report: Annotated[Path | None, typer.Option(help="Write a page with charts, too.")] = None,
    seed: Seed = 0,
) -> None:
    """Judge an adapter on your own data, beside keeping the source model, with intervals.

    agreement: is the corpus row that the target model ranks first among the first k? qa: is an answer among them, over
    all questions, and over those with confidence? Without --qrels, corpus row i answers query i.

    Example: ea-jax eval --source minilm --target oai-3-small --pairs pairs.parquet --report report.html
    """
    from ea_jax.cli.runtime import start_jax
    from ea_jax.registry.routes import resolve_route

    (entry,) = resolve_route([source, target], flavor)
    if report is not None and not report.absolute().parent.is_dir():
        raise BadInput(f"{report.parent} is not a folder, so the report cannot be written there. Make it first.")
    start_jax()
    from ea_jax.workflows.evaluate_entry import Given, judged

    given = Given(pairs or (), texts or (), queries, corpus, qrels, assume_source)
    made = judged(entry, given, protocol=protocol.value, seed=seed)
    if report is not None:
        made.save_html(report)
        print(f"ea-jax: {report} written", file=sys.stderr)
    if as_json:
        print(made.to_json())
        return
    from rich.console import Console

    Console().print(made.table())


def compare(
    a: Annotated[str, typer.Argument(help="A name, as `ea-jax list` shows it; or JSON that `eval --json` printed.")],
    b: Annotated[str, typer.Argument(help="Likewise, over the same queries.")],
    pairs: Pairs = None,
    texts: Texts = None,
    queries: Queries = None,
    corpus: Corpus = None,
    qrels: Qrels = None,
    protocol: Protocol = ProtocolName.agreement,
    assume_source: AssumeSource = False,
    as_json: AsJson = False,
    seed: Seed = 0,
) -> None:
    """Is B better than A, over the same queries? A paired bootstrap says by how much, and how surely.

    Named adapters are judged on files, which are those of `ea-jax eval`. Each figure has its own p value, for which it
    does not count how many figures there are.

    Example: ea-jax compare minilm--oai-3-small--small minilm--oai-3-small--large --pairs pairs.parquet
    """
    from ea_jax.evaluation.compare import compared, read_report
    from ea_jax.evaluation.report import plain

    if Path(a).suffix == Path(b).suffix == ".json":
        told = compared(read_report(Path(a)), read_report(Path(b)), seed)
    elif not (pairs or texts or queries or corpus):
        raise BadInput(
            "Named adapters are compared on --pairs, --texts, or --queries and --corpus; reports have to be .json "
            "files, both of them."
        )
    else:
        from ea_jax.cli.runtime import start_jax
        from ea_jax.registry.remotes import resolve_entry_by_name

        entries = [resolve_entry_by_name(name) for name in (a, b)]
        start_jax()
        from ea_jax.workflows.evaluate_entry import Given, judged

        given = Given(pairs or (), texts or (), queries, corpus, qrels, assume_source)
        first, second = (judged(e, given, protocol=protocol.value, seed=seed).as_dict() for e in entries)
        told = compared(first, second, seed)
    if as_json:
        print(json.dumps(plain(told), allow_nan=False))
        return
    from rich.console import Console

    Console().print(_differences(told))


def _differences(told: dict[str, Any]) -> Any:
    """The comparison as a table for a rich console."""
    from rich.table import Table

    table = Table("figure", "A", "B", "B - A", "95 % interval", "p", "verdict")
    for name, d in told.items():
        interval = f"{d['low']:+.4f} to {d['high']:+.4f}"
        cells = (f"{d['a']:.4f}", f"{d['b']:.4f}", f"{d['value']:+.4f}", interval, f"{d['p_value']:.3f}", d["verdict"])
        table.add_row(name, *cells)
    return table


COMMANDS = {evaluate: "eval", compare: "compare"}
