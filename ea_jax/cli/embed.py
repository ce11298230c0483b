"""`ea-jax embed` and `ea-jax fetch`: embed texts in the target space, and download encoders."""

import json
import logging
import sys
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from ea_jax.cli.jobs import run_files, run_stores
from ea_jax.cli.options import Delimiter, DtypeName, Flavor, OnError, Publish, PurposeName, TextsColumn, WhereNull
from ea_jax.errors import BadInput

logger = logging.getLogger(__name__)
CHUNK = 1024


def embed(
    source: Annotated[str, typer.Option(help="Model that embeds the texts, by id or alias.")],
    target: Annotated[str, typer.Option(help="Model whose space the embeddings go to.")],
    flavor: Flavor = None,
    purpose: Annotated[PurposeName, typer.Option(help="To store beside native vectors, or to query them.")] = (
        PurposeName.store
    ),
    text: Annotated[list[str] | None, typer.Option(help="A text; may be repeated. Lines of stdin by default.")] = None,
    quality: Annotated[bool, typer.Option(help="Add a confidence for each text.")] = True,
    min_confidence: Annotated[
        float | None, typer.Option(min=0, max=1, help='Mark texts with a lower confidence with "route": "provider".')
    ] = None,
    input: Annotated[
        list[str] | None, typer.Option(help="File, glob or folder of texts, or a vector store; may be repeated.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Output file, folder of parts, or vector store, for --input.")
    ] = None,
    column: TextsColumn = None,
    id_column: Annotated[str | None, typer.Option(help="Column that identifies a row in the list of rejects.")] = None,
    dtype: Annotated[DtypeName, typer.Option(help="Dtype of --output; int8 adds a column of scales.")] = (
        DtypeName.float32
    ),
    where_null: Annotated[WhereNull, typer.Option(help="How to treat null rows.")] = WhereNull.error,
    on_error: Annotated[OnError, typer.Option(help="Stop at the first bad row, or skip bad rows.")] = (OnError.stop),
    rejects: Annotated[Path | None, typer.Option(help="File for the skipped rows, one JSON object a line.")] = None,
    publish: Publish = None,
    delimiter: Delimiter = None,
    ndjson: Annotated[bool, typer.Option(help="One JSON object a line instead of one array.")] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Largest number of texts in a batch.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Token limit; longer texts are cut.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, gpu or tpu; the best one by default.")] = None,
    verbose: Annotated[bool, typer.Option(help="Print details and timings to stderr.")] = False,
) -> None:
    """Embed texts and map them to the target space, with a confidence for each.

    With --input and --output, embed files (.csv, .jsonl, .parquet and others) in resumable jobs, as `ea-jax map` does.

    Example: ea-jax embed --source minilm --target oai-3-small --text "Where can I get a hamburger?"
    """
    if input or output:
        if not input or output is None or text or min_confidence is not None or batch_size or max_length:
            raise typer.BadParameter("--input and --output go together, without --text or options for single texts.")
        from ea_jax.integrations.stores import is_store_url

        if any(map(is_store_url, [*input, output])):
            names, skip = (source, target, flavor), on_error is OnError.skip
            run_stores(input, output, names, purpose.value, skip, False, publish, device, texts=True)
            return
        config = {"source": source, "target": target, "flavor": flavor, "purpose": purpose.value}
        config |= {"confidence": quality, "texts": True}
        options = {"column": column, "id_column": id_column, "dtype": dtype.value, "where_null": where_null.value}
        run_files(
            input,
            output,
            config,
            options | {"skip": on_error is OnError.skip},
            {"delimiter": delimiter},
            rejects,
            device,
        )
        return
    if not text and sys.stdin.isatty():
        raise typer.BadParameter("give --text, or pipe lines to stdin.")
    if min_confidence is not None and not quality:
        raise typer.BadParameter("--min-confidence requires confidences. Omit --no-quality.")
    entry = _entry(source, target, flavor)
    if verbose:
        logging.getLogger("ea_jax").setLevel(logging.DEBUG)
    run = _pipeline(entry, purpose.value, quality, min_confidence, batch_size, max_length, device)
    rows = (row for chunk in _chunks(text) for row in run(chunk))
    if ndjson:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    else:
        separator = "["
        for row in rows:
            print(separator, json.dumps(row, ensure_ascii=False), sep="", end="")
            separator = ",\n "
        print("[]" if separator == "[" else "]")


def fetch(source: Annotated[str, typer.Argument(help="Model to fetch, by id or alias.")]) -> None:
    """Download the files of a local model and print their folder; for a composite, one folder for each member.

    Example: ea-jax fetch minilm
    """
    from ea_jax.encoders.locate import check_weights, find_encoder_folder, table_file
    from ea_jax.registry.spaces import find_space, list_members

    space = find_space(source)
    for part in [member.space for member in list_members(space)] or [space]:
        folder = find_encoder_folder(part)
        if part.sha256:
            file = table_file(folder, part.table) if part.table else folder / "model.safetensors"
            check_weights(file, part.sha256)
        print(folder)


COMMANDS = {embed: "embed", fetch: "fetch"}


def _entry(source, target, flavor):
    """Find the entry, without importing JAX if a registry has it."""
    from ea_jax.compat.catalog import find_public_adapter
    from ea_jax.errors import UnknownName
    from ea_jax.registry.routes import resolve_route

    try:
        return resolve_route([source, target], flavor)[0]
    except UnknownName:
        if find_public_adapter(source, target, flavor) is None:
            raise
    from ea_jax.loading import resolve_entry

    return resolve_entry(source, target, flavor)


def _pipeline(entry, purpose, quality, min_confidence, batch_size, max_length, device):
    """Load everything, and return a function from texts to result rows."""
    from ea_jax.cli.runtime import start_jax

    start_jax(device)
    import jax
    import numpy as np

    from ea_jax.loading import load_adapters, load_quality_part, load_source_encoder

    logger.debug(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    names = {"source": entry.source, "target": entry.target, "flavor": entry.flavor}
    encode = load_source_encoder(entry)
    adapters = load_adapters(entry, {purpose, "store"} if quality else {purpose})
    adapt = adapters[purpose]
    scorer = load_quality_part(entry, adapters["store"]) if quality else None
    logger.debug(f"{entry.name} for {purpose}, from {entry.path.parent}")

    def run(texts: list[str]) -> Iterator[dict[str, Any]]:
        tokenized = encode.tokenize(texts, max_length=max_length)
        if any(tokenized.truncated):
            limit = f"{max_length or encode.spec.max_length} tokens"
            if encode.spec.windows > 1 and not max_length:
                limit = f"{encode.spec.windows} windows of {limit}"
            logger.info(f"{sum(tokenized.truncated)} of {len(texts)} texts were cut at {limit}.")
        x = encode.embed(tokenized, batch_size, show_progress=sys.stderr.isatty())
        if scorer:
            y, scores = scorer.map_and_score(scorer.params, adapt, x)
            y, confidence = np.asarray(y), np.asarray(scores.confidence)
        else:
            y, confidence = np.asarray(adapt(adapt.params, x)), None
        logger.debug(f"{len(texts)} texts embedded")
        for i, text in enumerate(texts):
            fields: dict[str, Any] = {}
            if confidence is not None:
                fields["confidence"] = round(float(confidence[i]), 6)
                if min_confidence is not None and confidence[i] < min_confidence:
                    fields["route"] = "provider"
            yield {"text": text, "embedding": [float(str(v)) for v in y[i]], **fields, **names}

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
