"""`ea-jax drift`: compare new inputs with those of the fit."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ea_jax.cli.options import AssumeSource, Column, Delimiter, Flavor, Normalize, TextColumn


def drift(
    baseline: Annotated[str, typer.Argument(help="An adapter, to compare with its fit; or a file of earlier inputs.")],
    new: Annotated[Path, typer.Argument(help="Vectors or texts, in a file of any format; - for lines of stdin.")],
    source: Annotated[str | None, typer.Option(help="Model that made the vectors, if BASELINE is a file.")] = None,
    target: Annotated[str | None, typer.Option(help="Target model of the adapter, if BASELINE is a file.")] = None,
    flavor: Flavor = None,
    column: Column = None,
    text_column: TextColumn = None,
    delimiter: Delimiter = None,
    normalize: Normalize = False,
    assume_source: AssumeSource = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Compare the scores of new inputs with those at fit time, or with those of earlier inputs.

    Example: ea-jax drift minilm--oai-3-small--small new.npy
    """
    from ea_jax.cli.runtime import start_jax
    from ea_jax.registry.remotes import resolve_entry_by_name
    from ea_jax.registry.routes import resolve_route

    is_file = Path(baseline).suffix != "" and Path(baseline).exists()
    if is_file and not (source and target):
        raise typer.BadParameter("--source and --target are required if BASELINE is a file.")
    if is_file and source and target:
        (entry,) = resolve_route([source, target], flavor)
    else:
        entry = resolve_entry_by_name(baseline)
    start_jax()
    from ea_jax.data.columns import Columns
    from ea_jax.loading import load_adapter, load_quality_part
    from ea_jax.quality import drift as shift
    from ea_jax.quality.source_check import check_source_sample

    columns = Columns(column, text_column, delimiter=delimiter)
    read = partial(_read_inputs, entry=entry, columns=columns, normalize=normalize, assume_source=assume_source)

    quality = load_quality_part(entry, load_adapter(entry))
    x = read(new)
    check_source_sample(quality, x, str(new), assume_source)
    scores = quality(quality.params, x)
    before = (
        shift.monitored_scores(quality(quality.params, read(Path(baseline))))
        if is_file
        else shift.baseline_scores(quality)
    )
    shifts, outside = shift.drift(before, shift.monitored_scores(scores)), shift.out_of_domain_fraction(scores)
    if as_json:
        rows = {name: s._asdict() | {"verdict": s.verdict} for name, s in shifts.items()}
        print(json.dumps({"adapter": entry.name, "outside": outside, "scores": rows}, indent=2))
        return
    print(f"{'score':<16}{'psi':>8}{'KS':>8}{'p':>10}{'median before':>15}{'now':>10}  verdict")
    for name, s in shifts.items():
        print(f"{name:<16}{s.psi:8.3f}{s.distance:8.3f}{s.p_value:10.2g}{s.before:15.3f}{s.now:10.3f}  {s.verdict}")
    print(f"{outside:.1%} of the new inputs are out of domain.")


COMMANDS = {drift: "drift"}


def _read_inputs(path: Path, entry, columns, normalize: bool, assume_source: bool):
    """Read source embeddings from a file, or embed its texts."""
    from ea_jax.batch.device import source_rule
    from ea_jax.data.texts import STDIN, read_texts
    from ea_jax.data.vectors import has_vectors, read_vectors
    from ea_jax.loading import load_source_encoder
    from ea_jax.registry.fingerprint import check_source_files

    if path == STDIN or not has_vectors(path, columns):
        texts = read_texts([path], columns.text, columns.delimiter)
        return load_source_encoder(entry)(texts.text, show_progress=sys.stderr.isatty())
    check_source_files([path], entry.encoder, entry.name, assume_source, columns.source or "x")
    rule = source_rule(entry.spec("store"), normalize, entry.path.parent)
    return read_vectors(path, columns.source, rule, delimiter=columns.delimiter)
