"""Registries on the Hugging Face hub: the configured ones, their indexes, and downloads of their entries."""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ea_jax.errors import BadEntry, BadInput, Unavailable, UnknownName, suggest_names
from ea_jax.io.hashing import file_sha256
from ea_jax.io.hub_errors import explain_hub_errors
from ea_jax.io.toml import parse_record, read_toml
from ea_jax.progress import progress_bar
from ea_jax.registry.entry import Entry, read_entry
from ea_jax.registry.index import INDEX, Listing, read_index
from ea_jax.registry.locations import user_folder
from ea_jax.registry.lookup import choose_flavor, find_entry_by_name
from ea_jax.registry.spaces import find_space

ADDRESS = re.compile(r"hf:(datasets/)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
WORKERS = 8


@dataclass(frozen=True)
class Remote:
    """A registry on the hub, at one commit.

    Attributes:
        repo: Id of the repository, `owner/name`.
        kind: Type of the repository, `model` or `dataset`.
        commit: Commit that the registry was pinned to when it was added.
    """

    repo: str
    kind: str
    commit: str

    @property
    def address(self) -> str:
        """Address of the registry at its commit, as `ea-jax registry add` takes it."""
        return f"hf:{'datasets/' if self.kind == 'dataset' else ''}{self.repo}@{self.commit[:12]}"

    @property
    def cache(self) -> Path:
        """Local folder for the index and the downloaded entries."""
        folder = f"{self.kind}s--{self.repo.replace('/', '--')}"
        return user_folder("cache") / "registries" / folder / self.commit


def config_path() -> Path:
    """Path of the configuration file, which lists the registries on the hub."""
    from platformdirs import user_config_path

    return user_config_path("ea_jax") / "registries.toml"


def list_remotes() -> list[Remote]:
    """List the configured registries on the hub, in the order in which they were added.

    Raises:
        BadEntry: The configuration file is not valid.
    """
    path = config_path()
    tables = read_toml(path).get("registry", []) if path.is_file() else []
    remotes = [parse_record(Remote, facts, path) for facts in tables]
    for remote in remotes:
        if not re.fullmatch(r"[0-9a-f]{40}", remote.commit) or not ADDRESS.fullmatch(f"hf:{remote.repo}"):
            raise BadEntry(
                f"{path}: {remote.repo!r} at {remote.commit!r} is not a repository at a commit. Add it again."
            )
    return remotes


def add_remote(address: str) -> Remote:
    """Pin a repository to its current commit, download its index, and add it to the configuration file.

    Args:
        address: `hf:owner/name` or `hf:datasets/owner/name`, optionally with `@revision`.

    Raises:
        BadInput: The address is not valid, or the repository has no commit.
        Unavailable: The repository cannot be reached.
        BadEntry: The index is not valid.
    """
    repo, kind, revision = parse_address(address)
    from huggingface_hub import HfApi

    with explain_hub_errors(repo):
        commit = HfApi().repo_info(repo, repo_type=kind, revision=revision).sha
    if commit is None:
        raise BadInput(f"{repo} has no commit yet. `ea-jax publish` uploads an adapter.")
    remote = Remote(repo, kind, commit)
    fetch_index(remote)
    _configure([remote if (r.repo, r.kind) == (repo, kind) else r for r in list_remotes()], remote)
    return remote


def remove_remote(address: str) -> Remote:
    """Remove a repository from the configuration file. Downloaded entries stay in the cache, unused.

    Raises:
        UnknownName: The repository is not in the file.
    """
    repo, kind, _ = parse_address(address)
    known = list_remotes()
    removed = [remote for remote in known if (remote.repo, remote.kind) == (repo, kind)]
    if not removed:
        suggestion = suggest_names(address, [remote.address.partition("@")[0] for remote in known])
        raise UnknownName(f"No registry {address} was added. {suggestion}")
    _configure([remote for remote in known if remote not in removed])
    return removed[0]


def parse_address(address: str) -> tuple[str, str, str | None]:
    """Parse the repository, its type and the revision of an address.

    Raises:
        BadInput: The address is not valid.
    """
    match = ADDRESS.fullmatch(address)
    if not match:
        raise BadInput(f"{address!r} is not the address of a registry: use hf:owner/name or hf:datasets/owner/name.")
    return match[2], "dataset" if match[1] else "model", match[3]


def fetch_index(remote: Remote) -> list[Listing]:
    """Read the index of a registry on the hub, which is downloaded once.

    Raises:
        Unavailable: The index cannot be downloaded.
        BadEntry: The index is not valid.
    """
    file = remote.cache / INDEX
    if not file.is_file():
        (download,) = _download(remote, [INDEX])
        file.parent.mkdir(parents=True, exist_ok=True)
        read_index(download)
        with explain_hub_errors(remote.address), tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            os.replace(shutil.copyfile(download, Path(scratch) / INDEX), file)
    return read_index(file)


def checkpoint_files(entry: Entry) -> dict[str, Mapping[str, Any]]:
    """Records (`bytes`, `sha256`) of the files of both checkpoints, by path in the entry's folder."""
    parts = {"params": entry.params, "quality": entry.quality}
    return {f"{part}/{name}": facts for part, record in parts.items() for name, facts in record["files"].items()}


def find_listing(source: str, target: str, flavor: str | None) -> tuple[Remote, Listing] | None:
    """Find the adapter between two spaces in the first registry on the hub that has it.

    Raises:
        UnknownName: `flavor` is None, and the choice is not clear.
    """
    a, b = find_space(source).id, find_space(target).id
    for remote in list_remotes():
        pair = {row.flavor: row for row in fetch_index(remote) if (row.source, row.target) == (a, b)}
        if flavor in pair or (flavor is None and pair):
            return remote, pair[choose_flavor(pair, flavor, f"{source} to {target} at {remote.address}")]
    return None


def find_listing_by_name(name: str) -> tuple[Remote, Listing] | None:
    """Find an adapter by name in the first registry on the hub that has it."""
    matches = ((remote, row) for remote in list_remotes() for row in fetch_index(remote) if row.name == name)
    return next(matches, None)


def resolve_entry_by_name(name: str) -> Entry:
    """Find an adapter by the name that `ea-jax list` shows, and download it if it is on the hub.

    Raises:
        UnknownName: No adapter has this name.
        Unavailable: The adapter cannot be downloaded.
    """
    try:
        return find_entry_by_name(name)
    except UnknownName:
        match = find_listing_by_name(name)
        if match is None:
            raise
        return fetch_entry(*match)


def cached_entry(remote: Remote, listing: Listing) -> Path | None:
    """The folder of a downloaded entry, or None."""
    folder = remote.cache / listing.name
    return folder if folder.is_dir() else None


def fetch_entry(remote: Remote, listing: Listing) -> Entry:
    """Download an entry once, check its hashes, and only then move it into the cache.

    Two processes may download at the same time. Interrupted downloads are resumed.

    Raises:
        Unavailable: The entry cannot be downloaded.
        BadEntry: The entry differs from the index.
    """
    if folder := cached_entry(remote, listing):
        return read_entry(folder)
    folder = remote.cache / listing.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
        new = Path(scratch) / listing.name
        _fetch_files(remote, new, {"entry.toml": listing.sha256})
        entry = read_entry(new)
        if (entry.source, entry.target, entry.flavor) != (listing.source, listing.target, listing.flavor):
            raise BadEntry(f"{listing.name} of {remote.address} is another adapter than its index says.")
        _fetch_files(remote, new, {path: facts["sha256"] for path, facts in checkpoint_files(entry).items()})
        try:
            new.rename(folder)
        except OSError as error:
            if not folder.is_dir():  # else another process was faster, with the same bytes
                raise Unavailable(f"{folder} cannot be written: {error}.") from error
    return read_entry(folder)


def _fetch_files(remote: Remote, folder: Path, files: dict[str, str]) -> None:
    """Download files of an entry into a folder of the same name, and check their SHA-256."""
    for name in files:
        parts = PurePosixPath(name).parts
        if ".." in parts or name.startswith("/") or "\\" in name or ":" in name:
            raise BadEntry(
                f"{folder.name} of {remote.address} names {name!r}, which is outside its folder. Do not use it."
            )
    downloads = _download(remote, [f"{folder.name}/{name}" for name in files])
    with explain_hub_errors(remote.address):
        for (name, sha256), file in zip(files.items(), downloads, strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / name)
            if file_sha256(folder / name) != sha256:
                file.resolve().unlink(missing_ok=True)
                raise BadEntry(f"{folder.name}/{name} of {remote.address} differs from the published file. Try again.")


def _download(remote: Remote, names: Sequence[str]) -> list[Path]:
    from huggingface_hub import hf_hub_download

    def download(name: str) -> Path:
        return Path(hf_hub_download(remote.repo, name, repo_type=remote.kind, revision=remote.commit))

    title, files = f"Downloading {remote.repo}", []
    with (
        explain_hub_errors(remote.address),
        ThreadPoolExecutor(WORKERS) as pool,
        progress_bar(title, len(names), sys.stderr.isatty(), min_total=2) as advance,
    ):
        for file in pool.map(download, names):
            files.append(file)
            advance(1)
    return files


def _configure(known: Sequence[Remote], new: Remote | None = None) -> None:
    import tomli_w

    file = config_path()
    file.parent.mkdir(parents=True, exist_ok=True)
    known = [*known, *([new] if new and new not in known else [])]
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        written = Path(scratch) / file.name
        written.write_text(tomli_w.dumps({"registry": [asdict(remote) for remote in known]}), encoding="utf-8")
        os.replace(written, file)
