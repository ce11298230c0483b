"""Texts to embeddings of the target space: `ea-jax embed` and `ea-jax fetch`."""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from ea_jax.cli.jobs import run_files
from ea_jax.cli.options import DtypeName, OnError, PurposeName, WhereNull
from ea_jax.errors import BadInput

CHUNK = 1024


def embed(
    source: Annotated[str, typer.Option(help="Model that reads the texts, by id or alias.")],
    target: Annotated[str, typer.Option(help="Model whose space the embeddings go to.")],
    flavor: Annotated[str | None, typer.Option(help="Which adapter, where there are several.")] = None,
    purpose: Annotated[PurposeName, typer.Option(help="To store beside native vectors, or to query them.")] = (
        PurposeName.store
    ),
    text: Annotated[list[str] | None, typer.Option(help="A text; may be repeated. Lines of stdin if none.")] = None,
    quality: Annotated[bool, typer.Option(help="Score each text with a confidence.")] = True,
    min_confidence: Annotated[
        float | None, typer.Option(min=0, max=1, help='Mark texts below it with "route": "provider".')
    ] = None,
    input: Annotated[
        list[str] | None, typer.Option(help="File, glob or folder of texts, instead of --text; may be repeated.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File or folder of parts for --input.")] = None,
    column: Annotated[str | None, typer.Option(help="Column of the texts; text if not given.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column that names a row, in the list of rejects.")] = None,
    dtype: Annotated[DtypeName, typer.Option(help="Of --output; int8 comes with a column of scales.")] = (
        DtypeName.float32
    ),
    where_null: Annotated[WhereNull, typer.Option(help="What becomes of null rows.")] = WhereNull.error,
    on_error: Annotated[OnError, typer.Option(help="Stop at the first bad row, or put such rows aside.")] = (
        OnError.stop
    ),
    rejects: Annotated[Path | None, typer.Option(help="Where they are listed, a JSON object a line.")] = None,
    ndjson: Annotated[bool, typer.Option(help="One JSON object a line instead of one array.")] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="The most texts computed together.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens after which a text is cut.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, gpu or tpu; the best one if not given.")] = None,
    verbose: Annotated[bool, typer.Option(help="Say on stderr what was used and how long it took.")] = False,
) -> None:
    """Embed texts and map them into the target space, with a confidence for each.

    Files go to files with --input and --output (.csv, .jsonl, .parquet and others), as `ea-jax map` does it.

    Example: ea-jax embed --source minilm --target oai-3-small --text "Where can I get a hamburger?"
    """
    if input or output:
        if not input or output is None or text or min_confidence is not None or batch_size or max_length:
            raise typer.BadParameter("--input and --output go together, without --text and limits of texts.")
        names = {"source": source, "target": target, "flavor": flavor, "purpose": purpose.value}
        names |= {"confidence": quality, "texts": True}
        options = {"column": column, "id_column": id_column, "dtype": dtype.value, "where_null": where_null.value}
        run_files(input, output, names, options | {"skip": on_error is OnError.skip}, {}, rejects, device)
        return
    if not text and sys.stdin.isatty():
        raise typer.BadParameter("give --text, or pipe lines to stdin.")
    if min_confidence is not None and not quality:
        raise typer.BadParameter("--min-confidence needs the confidence that --no-quality leaves out.")
    entry = _entry(source, target, flavor)
    say = _teller(verbose)
    run = _pipeline(entry, purpose.value, quality, min_confidence, batch_size, max_length, device, say)
    rows = (row for chunk in _chunks(text) for row in run(chunk))
    if ndjson:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    else:
        before = "["
        for row in rows:
            print(before, json.dumps(row, ensure_ascii=False), sep="", end="")
            before = ",\n "
        print("[]" if before == "[" else "]")


def fetch(source: Annotated[str, typer.Argument(help="Model to fetch, by id or alias.")]) -> None:
    """Put a local model's files on this machine, and print their folder; of a composite, a folder a line.

    Example: ea-jax fetch minilm
    """
    from ea_jax.encoders.locate import check_weights, find_encoder_folder, table_file
    from ea_jax.registry.spaces import find_space, members_of

    space = find_space(source)
    for part in [member.space for member in members_of(space)] or [space]:
        folder = find_encoder_folder(part)
        if part.sha256:
            file = table_file(folder, part.table) if part.table else folder / "model.safetensors"
            check_weights(file, part.sha256)
        print(folder)


COMMANDS = {embed: "embed", fetch: "fetch"}


def _entry(source, target, flavor):
    """The entry of a registry, without JAX where there is one."""
    from ea_jax.compat.catalog import find_public_adapter
    from ea_jax.errors import UnknownName
    from ea_jax.registry.routes import hop_entries

    try:
        return hop_entries([source, target], flavor)[0]
    except UnknownName:
        if find_public_adapter(source, target, flavor) is None:
            raise
    from ea_jax.loading import entry_for

    return entry_for(source, target, flavor)


def _pipeline(entry, purpose, quality, least, batch_size, max_length, device, say):
    """A function from texts to result rows, with everything loaded."""
    from ea_jax.cli.runtime import start_jax

    start_jax(device)
    import jax
    import numpy as np

    from ea_jax.loading import load, load_quality, source_encoder

    say(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    root = entry.path.parent
    names = {"source": entry.source, "target": entry.target, "flavor": entry.flavor}
    encode = source_encoder(entry)
    adapt = load(entry.source, entry.target, flavor=entry.flavor, purpose=purpose, root=root)
    judge = load_quality(entry.source, entry.target, flavor=entry.flavor, root=root) if quality else None
    say(f"{entry.name} for {purpose}, from {entry.path.parent}")

    def run(texts: list[str]) -> Iterator[dict[str, Any]]:
        tokenized = encode.tokenize(texts, max_length=max_length)
        if any(tokenized.truncated):
            limit = f"{max_length or encode.spec.max_length} tokens"
            if encode.spec.windows > 1 and not max_length:
                limit = f"{encode.spec.windows} windows of {limit}"
            print(f"ea-jax: {sum(tokenized.truncated)} of {len(texts)} texts were cut at {limit}.", file=sys.stderr)
        x = encode.embed(tokenized, batch_size, show_progress=sys.stderr.isatty())
        y = np.asarray(adapt(adapt.params, x))
        confidence = np.asarray(judge(judge.params, x).confidence) if judge else None
        say(f"{len(texts)} texts embedded")
        for i, text in enumerate(texts):
            scored: dict[str, Any] = {}
            if confidence is not None:
                scored["confidence"] = round(float(confidence[i]), 6)
                if least is not None and confidence[i] < least:
                    scored["route"] = "provider"
            yield {"text": text, "embedding": [float(str(v)) for v in y[i]], **scored, **names}

    return run


def _chunks(text: list[str] | None) -> Iterator[list[str]]:
    lines = iter(text) if text else _lines(sys.stdin)
    while chunk := list(islice(lines, CHUNK)):
        yield chunk


def _lines(stream: Iterable[str]) -> Iterator[str]:
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors="strict")
    try:
        for line in stream:
            yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"stdin is not UTF-8 text ({error.reason}). Convert it first, for instance with iconv."
        ) from error


def _teller(verbose: bool):
    start = time.perf_counter()

    def say(message: str) -> None:
        if verbose:
            print(f"ea-jax: {time.perf_counter() - start:6.2f} s  {message}", file=sys.stderr)

    return say
