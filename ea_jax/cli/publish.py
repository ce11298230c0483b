"""Check, add and publish entries: `ea-jax check`, `add` and `publish`."""

import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ea_jax.cli.options import AssumeSource, Flavor
from ea_jax.errors import BadEntry, BadInput, Conflict, EaJaxError, Unavailable
from ea_jax.io.atomic import recover_folders, replace_folder
from ea_jax.registry.entry import read_entry
from ea_jax.registry.locations import user_folder
from ea_jax.registry.lookup import entry_name, find_entry_by_name, list_entry_folders
from ea_jax.registry.remotes import cached_entry, find_listing_by_name

logger = logging.getLogger(__name__)


def add(
    folder: Annotated[Path, typer.Argument(help="Folder of an entry, with entry.toml, params/ and quality/.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace an entry of the same name.")] = False,
    pairs: Annotated[Path | None, typer.Option(help="Test pairs that must reproduce the recorded metrics.")] = None,
    assume_source: AssumeSource = False,
) -> None:
    """Check an adapter, copy it into your own registry and print its folder.

    Example: ea-jax add my-registry/minilm--oai-3-small--mine
    """
    _start()
    from ea_jax.registry.publish import reject_links
    from ea_jax.registry.validate import check_entry
    from ea_jax.workflows.verify_entry import verify_metrics

    reject_links(folder)
    root = user_folder("data") / "registry"
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".add-") as scratch:
        copy = _copy(folder, Path(scratch) / "registry" / folder.resolve().name)
        entry = read_entry(copy)
        check_entry(entry)
        if pairs is not None:
            verification = verify_metrics(entry, pairs, assume_source)
            if verification.matches is False:
                raise BadEntry(f"{folder} was not added: {verification.message}")
            logger.info(verification.message)
        target = root / entry_name(entry)
        recover_folders(root)
        if target.exists() and not replace:
            raise Conflict(f"{target} is there already. Replace it with --replace.")
        replace_folder(copy, target)
    print(target)


def check(
    names: Annotated[
        list[str] | None, typer.Argument(help="Adapters, as `ea-jax list` shows them; all if omitted.")
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="Test pairs to measure the named adapters on.")] = None,
    assume_source: AssumeSource = False,
    source: Annotated[str | None, typer.Option(help="For a store: local model that embeds its texts.")] = None,
    target: Annotated[str | None, typer.Option(help="For a store: model that made its vectors.")] = None,
    flavor: Flavor = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="For a store: exit code 1 after a warning or an error.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For a store: print one JSON object.")] = False,
) -> None:
    """Check every hash, shape and value of adapters. The exit code is 1 if one of them is damaged.

    With --pairs, the metrics are measured again, and must equal those recorded for a test set.

    For the URL of a vector store, count its rows, report zero, non-finite and unscaled vectors, missing texts,
    duplicates and mixed models, and identify the model of the vectors. With --source and --target, also report vectors
    that do not fit their texts.

    Example: ea-jax check minilm--oai-3-small--small

    Example: ea-jax check qdrant:./db#docs --strict
    """
    from ea_jax.integrations.stores import is_store_url

    if names and any(map(is_store_url, names)):
        _check_stores(names, source, target, flavor, strict, as_json)
        return
    if pairs is not None and not names:
        raise typer.BadParameter("--pairs requires the names of the adapters to measure.")
    folders = [_folder(name) for name in names] if names else list_entry_folders()
    _start()
    from ea_jax.registry.validate import check_entry
    from ea_jax.workflows.verify_entry import verify_metrics

    failed = 0
    for folder in folders:
        try:
            check_entry(entry := read_entry(folder))
            verification = verify_metrics(entry, pairs, assume_source) if pairs is not None else None
            failed += verification is not None and verification.matches is False
            print(f"{folder.name}: whole" + (f"; {verification.message}" if verification else ""))
        except (EaJaxError, OSError) as error:
            failed += 1
            print(f"{folder.name}: {error}")
    if failed:
        logger.error(f"{failed} of {len(folders)} adapters did not pass.")
        raise typer.Exit(1)


def publish(
    folder: Annotated[Path, typer.Argument(help="Folder of the entry.")],
    address: Annotated[str, typer.Argument(help="hf:owner/name or hf:datasets/owner/name.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files to upload, and stop.")] = False,
) -> None:
    """Check an adapter and upload it, with its card, to a registry on the Hugging Face hub.

    Example: ea-jax publish my-registry/minilm--oai-3-small--mine hf:owner/name --dry-run
    """
    _start()
    from ea_jax.registry import publish as publishing
    from ea_jax.registry.index import INDEX
    from ea_jax.registry.remotes import parse_address

    if dry_run:
        parse_address(address)
        for path, file in publishing.plan_upload(folder).files.items():
            print(f"{file.stat().st_size:>12,}  {path}")
        print(f"{'changed':>12}  {INDEX}")
        return
    print(publishing.publish(folder, address))


def _check_stores(
    urls: list[str], source: str | None, target: str | None, flavor: str | None, strict: bool, as_json: bool
) -> None:
    from ea_jax.registry.routes import resolve_route

    if (source is None) != (target is None):
        raise typer.BadParameter("--source and --target go together.")
    if flavor is not None and source is None:
        raise typer.BadParameter("--flavor requires --source and --target.")
    entry = resolve_route([source, target], flavor)[0] if source and target else None
    _start()
    from ea_jax.workflows.store_jobs import check_store_at

    reports = [check_store_at(url, entry, show_progress=sys.stderr.isatty()) for url in urls]
    for report in reports:
        print(json.dumps(report.to_json()) if as_json else report)
    if strict and not all(report.ok for report in reports):
        raise typer.Exit(1)


COMMANDS = {add: "add", check: "check", publish: "publish"}


def _folder(name: str) -> Path:
    """Find the folder of an adapter in the registries, or among the downloads from the hub."""
    local = {folder.name: folder for folder in list_entry_folders()}
    match = None if name in local else find_listing_by_name(name)
    if match is None:
        return local.get(name) or find_entry_by_name(name).path
    folder = cached_entry(*match)
    if folder is None:
        raise BadInput(f"{name} is at {match[0].address} and was not downloaded yet. Load it once, then check it.")
    return folder


def _copy(folder: Path, copy: Path) -> Path:
    """Copy a folder, with a short error if that fails."""
    try:
        return Path(shutil.copytree(folder, copy))
    except shutil.Error as error:  # lists every file
        _, file, reason = error.args[0][0]
        raise Unavailable(f"{file} cannot be written: {reason}") from error


def _start() -> None:
    from ea_jax.cli.runtime import start_jax

    start_jax("cpu")
