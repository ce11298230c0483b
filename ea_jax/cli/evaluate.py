"""How good is an adapter on your data, and is another better? `ea-jax eval` and `ea-jax compare`."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ea_jax.errors import BadInput


class ProtocolName(StrEnum):
    """What counts as found."""

    agreement = "agreement"
    qa = "qa"


def evaluate(
    source: Annotated[str, typer.Option(help="Model that made the column x, or that embeds the texts.")],
    target: Annotated[str, typer.Option(help="Model of the column y.")],
    pairs: Annotated[list[Path] | None, typer.Option(help="Pairs: y, and x or text; group, query.")] = None,
    texts: Annotated[list[Path] | None, typer.Option(help="Texts, where both models run here.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Vectors of queries: x, y, text, group, id.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Vectors of the corpus: y, x, text, id.")] = None,
    qrels: Annotated[Path | None, typer.Option(help="Judgments: query, row, grade.")] = None,
    flavor: Annotated[str | None, typer.Option(help="Which adapter, where there are several.")] = None,
    protocol: Annotated[ProtocolName, typer.Option(help="agreement with the target model, or answers found.")] = (
        ProtocolName.agreement
    ),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write a page with charts, too.")] = None,
    seed: Annotated[int, typer.Option(help="Of all sampling.")] = 0,
) -> None:
    """Judge an adapter on your own data, beside keeping the source model, with intervals.

    agreement: is the corpus row that the target model ranks first among the first k? qa: is an answer among them, over
    all questions, and over those with confidence? Without --qrels, corpus row i answers query i.

    Example: ea-jax eval --source minilm --target oai-3-small --pairs pairs.parquet --report report.html
    """
    from ea_jax.registry import find_entry

    given = [bool(pairs), bool(texts), queries is not None and corpus is not None]
    if sum(given) != 1:
        raise typer.BadParameter("give one of --pairs, --texts, or --queries with --corpus.")
    if qrels is not None and not given[2]:
        raise typer.BadParameter("--qrels goes with --queries and --corpus.")
    entry = find_entry(source, target, flavor)
    from ea_jax.cli.device import start_jax

    start_jax()
    from ea_jax.judge import answered_in_order, judge, trial_of_pairs, trial_of_texts, trial_of_vectors

    if queries is not None and corpus is not None:
        trial, notes = trial_of_vectors(queries, corpus, qrels)
        trial = trial if qrels or protocol == ProtocolName.agreement else answered_in_order(trial)
    else:
        trial, notes = trial_of_texts(entry, texts, seed) if texts else trial_of_pairs(entry, pairs or [], seed)
    made = judge(entry, trial, protocol=protocol.value, seed=seed, notes=notes)
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
    pairs: Annotated[list[Path] | None, typer.Option(help="Pairs to judge named adapters on.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    seed: Annotated[int, typer.Option(help="Of all sampling.")] = 0,
) -> None:
    """Is B better than A, over the same queries? A paired bootstrap says by how much, and how surely.

    Example: ea-jax compare minilm--oai-3-small--small minilm--oai-3-small--large --pairs pairs.parquet
    """
    from ea_jax.evaluation.compare import compared, read_report

    if Path(a).suffix == Path(b).suffix == ".json":
        told = compared(read_report(Path(a)), read_report(Path(b)), seed)
    elif not pairs:
        raise BadInput("Named adapters are compared on --pairs; reports have to be .json files, both of them.")
    else:
        from ea_jax.cli.device import start_jax
        from ea_jax.registry import entry_named

        start_jax()
        from ea_jax.judge import judge, trial_of_pairs

        def judged_by(name: str):
            entry = entry_named(name)
            trial, notes = trial_of_pairs(entry, pairs, seed)
            return judge(entry, trial, protocol="agreement", seed=seed, notes=notes).as_dict()

        told = compared(judged_by(a), judged_by(b), seed)
    if as_json:
        print(json.dumps(told))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "A", "B", "B - A", "95 % interval", "p", "verdict")
    for name, d in told.items():
        interval = f"{d['low']:+.4f} to {d['high']:+.4f}"
        cells = (f"{d['a']:.4f}", f"{d['b']:.4f}", f"{d['value']:+.4f}", interval, f"{d['p_value']:.3f}", d["verdict"])
        table.add_row(name, *cells)
    Console().print(table)


COMMANDS = {evaluate: "eval", compare: "compare"}
