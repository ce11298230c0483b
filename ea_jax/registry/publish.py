"""An entry to a registry on the Hugging Face hub, with its card and the registry's index."""

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
    """What goes to the hub: files by their path there, and the line of the index."""

    files: dict[str, Path]
    listed: Listing


def plan_upload(folder: Path) -> Upload:
    """What `publish` would upload. The hub is not asked.

    Raises:
        BadEntry, CorruptCheckpoint: The adapter is not whole, holds a link, or has no card.
    """
    entry = read_entry(folder)
    name = entry_name(entry)
    reject_links(folder)
    check_entry(entry)
    return Upload({f"{name}/{file}": folder / file for file in _files(entry)}, _line(entry, name))


def publish(folder: Path, address: str) -> str:
    """Upload an adapter in one commit, with the index that names it; the first one's card becomes the repository's.

    Args:
        folder: An entry's folder.
        address: `hf:owner/name` or `hf:datasets/owner/name`; the repository is made if it is not there.

    Returns:
        The address of the commit.

    Raises:
        BadInput: The address is of another form, or the hub refuses; nothing is uploaded in part.
        BadEntry, CorruptCheckpoint: The adapter is not whole.
    """
    repo, kind, revision = parse_address(address)
    if revision:
        raise BadInput(f"{address} names a revision; what is published goes to the main branch. Leave @{revision} out.")
    upload = plan_upload(folder)
    from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download

    api = HfApi()
    instead = "Nothing was uploaded; log in with `hf auth login`, or try again."
    with explain_hub_errors(repo, instead, "could not be uploaded to the hub"):
        api.create_repo(repo, repo_type=kind, exist_ok=True)
        head = api.repo_info(repo, repo_type=kind)
        there = set(api.list_repo_files(repo, repo_type=kind, revision=head.sha))
        known = (
            read_index(Path(hf_hub_download(repo, INDEX, repo_type=kind, revision=head.sha))) if INDEX in there else []
        )
        index = format_index([row for row in known if row.name != upload.listed.name] + [upload.listed])
        added = [CommitOperationAdd(path, file) for path, file in upload.files.items()]
        added.append(CommitOperationAdd(INDEX, index.encode()))
        if CARD not in there:
            added.append(CommitOperationAdd(CARD, folder / "card.md"))
        logger.info(f"{len(added)} files to {repo}")
        done = api.create_commit(repo, added, commit_message=upload.listed.name, repo_type=kind, parent_commit=head.sha)
    return done.commit_url


def reject_links(folder: Path) -> None:
    """Raise BadEntry where a folder is or holds a link."""
    links = [path for path in [folder, *folder.rglob("*")] if path.is_symlink()]
    if links:
        raise BadEntry(f"{links[0]} is a link, which no entry may hold. Copy the file to where the link is.")


def _files(entry: Entry) -> list[str]:
    if not (entry.path / "card.md").is_file():
        raise BadEntry(f"{entry.path} has no card.md, which tells people what it is. Write one, then publish.")
    return ["entry.toml", "card.md", *checkpoint_files(entry)]


def _line(entry: Entry, name: str) -> Listing:
    return make_listing(entry, file_sha256(entry.path / "entry.toml"))._replace(name=name)
