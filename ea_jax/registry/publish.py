"""Publish an entry to a registry on the Hugging Face hub, with its card and the registry's index."""

import logging
from pathlib import Path
from typing import NamedTuple

from ea_jax.errors import BadEntry, BadInput
from ea_jax.io.hashing import file_sha256
from ea_jax.io.hub_errors import explain_hub_errors
from ea_jax.registry.entry import Entry, read_entry
from ea_jax.registry.index import INDEX, Listing, format_index, make_listing, read_index
from ea_jax.registry.lookup import entry_name
from ea_jax.registry.remotes import checkpoint_files, parse_address
from ea_jax.registry.validate import check_entry

CARD = "README.md"
logger = logging.getLogger(__name__)


class Upload(NamedTuple):
    """Files to upload, by their path in the repository, and the new row of the index."""

    files: dict[str, Path]
    listing: Listing


def plan_upload(folder: Path) -> Upload:
    """List what `publish` would upload, without contacting the hub.

    Raises:
        BadEntry, CorruptCheckpoint: The entry is damaged, contains a link, or has no card.
    """
    entry = read_entry(folder)
    name = entry_name(entry)
    reject_links(folder)
    check_entry(entry)
    return Upload({f"{name}/{file}": folder / file for file in _list_files(entry)}, _index_row(entry, name))


def publish(folder: Path, address: str) -> str:
    """Upload an entry and the updated index in one commit. The first entry's card becomes the repository's.

    Args:
        folder: Folder of the entry.
        address: `hf:owner/name` or `hf:datasets/owner/name`. The repository is created if necessary.

    Returns:
        URL of the commit.

    Raises:
        BadInput: The address is not valid.
        Unavailable: The hub refuses or cannot be reached. Nothing is uploaded in part.
        BadEntry, CorruptCheckpoint: The entry is damaged.
    """
    repo, kind, revision = parse_address(address)
    if revision:
        raise BadInput(f"{address} names a revision, but entries are published to the main branch. Omit @{revision}.")
    upload = plan_upload(folder)
    from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download

    api = HfApi()
    advice = "Nothing was uploaded; log in with `hf auth login`, or try again."
    with explain_hub_errors(repo, advice, "could not be uploaded to the hub"):
        api.create_repo(repo, repo_type=kind, exist_ok=True)
        head = api.repo_info(repo, repo_type=kind)
        existing = set(api.list_repo_files(repo, repo_type=kind, revision=head.sha))
        rows: list[Listing] = []
        if INDEX in existing:
            rows = read_index(Path(hf_hub_download(repo, INDEX, repo_type=kind, revision=head.sha)))
        index = format_index([row for row in rows if row.name != upload.listing.name] + [upload.listing])
        added = [CommitOperationAdd(path, file) for path, file in upload.files.items()]
        added.append(CommitOperationAdd(INDEX, index.encode()))
        if CARD not in existing:
            added.append(CommitOperationAdd(CARD, folder / "card.md"))
        logger.info(f"uploading {len(added)} files to {repo}")
        commit = api.create_commit(
            repo, added, commit_message=upload.listing.name, repo_type=kind, parent_commit=head.sha
        )
    return commit.commit_url


def reject_links(folder: Path) -> None:
    """Raise BadEntry if a folder is a symbolic link or contains one."""
    links = [path for path in [folder, *folder.rglob("*")] if path.is_symlink()]
    if links:
        raise BadEntry(f"{links[0]} is a link, which entries may not contain. Replace it by a copy of the file.")


def _list_files(entry: Entry) -> list[str]:
    if not (entry.path / "card.md").is_file():
        raise BadEntry(f"{entry.path} has no card.md, which describes the adapter. Write one, then publish.")
    return ["entry.toml", "card.md", *checkpoint_files(entry)]


def _index_row(entry: Entry, name: str) -> Listing:
    return make_listing(entry, file_sha256(entry.path / "entry.toml"))._replace(name=name)
