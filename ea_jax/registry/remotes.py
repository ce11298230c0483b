"""Registries on the Hugging Face hub: which are known, what their indexes say, one adapter fetched whole."""

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

from ea_jax.errors import BadEntry, BadInput, UnknownName, suggest_names
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
        repo: Its repository, `owner/name`.
        kind: `model` or `dataset`.
        commit: What it was pinned to when it was added.
    """

    repo: str
    kind: str
    commit: str

    @property
    def address(self) -> str:
        """What `ea-jax registry add` takes, at this commit."""
        return f"hf:{'datasets/' if self.kind == 'dataset' else ''}{self.repo}@{self.commit[:12]}"

    @property
    def cache(self) -> Path:
        """Where its index and the adapters fetched from it are on this machine."""
        folder = f"{self.kind}s--{self.repo.replace('/', '--')}"
        return user_folder("cache") / "registries" / folder / self.commit


def config_path() -> Path:
    """The file that names the registries on the hub."""
    from platformdirs import user_config_path

    return user_config_path("ea_jax") / "registries.toml"


def list_remotes() -> list[Remote]:
    """Registries on the hub, in the order in which they were added.

    Raises:
        BadEntry: The configuration file is not what it should be.
    """
    path = config_path()
    found = (
        [parse_record(Remote, facts, path) for facts in read_toml(path).get("registry", [])] if path.is_file() else []
    )
    for remote in found:
        if not re.fullmatch(r"[0-9a-f]{40}", remote.commit) or not ADDRESS.fullmatch(f"hf:{remote.repo}"):
            raise BadEntry(f"{path}: {remote.repo!r} at {remote.commit!r} is no repository at a commit. Add it again.")
    return found


def add_remote(address: str) -> Remote:
    """Pin a repository to its present commit, fetch its index, and write it into the configuration file.

    Args:
        address: `hf:owner/name`, `hf:datasets/owner/name`, either with `@revision`.

    Raises:
        BadInput: The address is not of this form, or the repository cannot be fetched.
        BadEntry: Its index is not what it should be.
    """
    repo, kind, revision = parse_address(address)
    from huggingface_hub import HfApi

    with explain_hub_errors(repo):
        commit = HfApi().repo_info(repo, repo_type=kind, revision=revision).sha
    if commit is None:
        raise BadInput(f"{repo} has no commit yet. `ea-jax publish` puts an adapter there.")
    remote = Remote(repo, kind, commit)
    fetch_index(remote)
    _configure([remote if (r.repo, r.kind) == (repo, kind) else r for r in list_remotes()], remote)
    return remote


def remove_remote(address: str) -> Remote:
    """Take a repository out of the configuration file; what was fetched from it stays in the cache, unused.

    Raises:
        UnknownName: It is not in the file.
    """
    repo, kind, _ = parse_address(address)
    known = list_remotes()
    gone = [remote for remote in known if (remote.repo, remote.kind) == (repo, kind)]
    if not gone:
        told = suggest_names(address, [remote.address.partition("@")[0] for remote in known])
        raise UnknownName(f"No registry {address} was added. {told}")
    _configure([remote for remote in known if remote not in gone])
    return gone[0]


def parse_address(address: str) -> tuple[str, str, str | None]:
    """Repository, kind and revision of an address.

    Raises:
        BadInput: It is none.
    """
    found = ADDRESS.fullmatch(address)
    if not found:
        raise BadInput(f"{address!r} is no address of a registry: write hf:owner/name or hf:datasets/owner/name.")
    return found[2], "dataset" if found[1] else "model", found[3]


def fetch_index(remote: Remote) -> list[Listing]:
    """What a registry on the hub holds; its index is fetched once.

    Raises:
        BadInput: It cannot be fetched.
        BadEntry: It is not what it should be.
    """
    file = remote.cache / INDEX
    if not file.is_file():
        (there,) = _downloaded(remote, [INDEX])
        file.parent.mkdir(parents=True, exist_ok=True)
        read_index(there)
        with explain_hub_errors(remote.address), tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            os.replace(shutil.copyfile(there, Path(scratch) / INDEX), file)
    return read_index(file)


def checkpoint_files(entry: Entry) -> dict[str, Mapping[str, Any]]:
    """Of each file of both checkpoints, by its path in the entry's folder, `bytes` and `sha256`."""
    parts = {"params": entry.params, "quality": entry.quality}
    return {f"{part}/{name}": facts for part, of in parts.items() for name, facts in of["files"].items()}


def find_listing(source: str, target: str, flavor: str | None) -> tuple[Remote, Listing] | None:
    """The adapter between two spaces in the first registry on the hub that has it; without a flavor, the small one.

    Raises:
        UnknownName: That registry has several, none is small, and none was named.
    """
    a, b = find_space(source).id, find_space(target).id
    for remote in list_remotes():
        pair = {row.flavor: row for row in fetch_index(remote) if (row.source, row.target) == (a, b)}
        if flavor in pair or (flavor is None and pair):
            return remote, pair[choose_flavor(pair, flavor, f"{source} to {target} at {remote.address}")]
    return None


def find_listing_by_name(name: str) -> tuple[Remote, Listing] | None:
    """The adapter of a name in the first registry on the hub that has it."""
    found = ((remote, row) for remote in list_remotes() for row in fetch_index(remote) if row.name == name)
    return next(found, None)


def resolve_entry_by_name(name: str) -> Entry:
    """The adapter of a name as `ea-jax list` shows it, fetched where it is on the hub.

    Raises:
        UnknownName: No adapter has the name.
        BadInput: It cannot be fetched.
    """
    try:
        return find_entry_by_name(name)
    except UnknownName:
        found = find_listing_by_name(name)
        if found is None:
            raise
        return fetch_entry(*found)


def cached_entry(remote: Remote, listed: Listing) -> Path | None:
    """The folder of an adapter that was fetched; None before."""
    there = remote.cache / listed.name
    return there if there.is_dir() else None


def fetch_entry(remote: Remote, listed: Listing) -> Entry:
    """An adapter of a registry on the hub: fetched once, hashed, and only then moved into the cache.

    Two processes may fetch at once; what was fetched in part is gone on with the next time.

    Raises:
        BadInput: It cannot be fetched.
        BadEntry: It is not what the index says.
    """
    if here := cached_entry(remote, listed):
        return read_entry(here)
    there = remote.cache / listed.name
    there.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=there.parent, prefix=".fetch-") as scratch:
        new = Path(scratch) / listed.name
        _put(remote, new, {"entry.toml": listed.sha256})
        entry = read_entry(new)
        if (entry.source, entry.target, entry.flavor) != (listed.source, listed.target, listed.flavor):
            raise BadEntry(f"{listed.name} of {remote.address} is another adapter than its index says.")
        _put(remote, new, {path: facts["sha256"] for path, facts in checkpoint_files(entry).items()})
        try:
            new.rename(there)
        except OSError as error:
            if not there.is_dir():  # else another process was first, with the same bytes
                raise BadInput(f"{there} cannot be written: {error}.") from error
    return read_entry(there)


def _put(remote: Remote, folder: Path, files: dict[str, str]) -> None:
    """Files of an adapter, by name with their SHA-256, into a folder of its name."""
    for name in files:
        parts = PurePosixPath(name).parts
        if ".." in parts or name.startswith("/") or "\\" in name or ":" in name:
            raise BadEntry(f"{folder.name} of {remote.address} names {name!r}, which is outside of it. Do not use it.")
    found = _downloaded(remote, [f"{folder.name}/{name}" for name in files])
    with explain_hub_errors(remote.address):
        for (name, wanted), file in zip(files.items(), found, strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / name)
            if file_sha256(folder / name) != wanted:
                file.resolve().unlink(missing_ok=True)
                raise BadEntry(
                    f"{folder.name}/{name} of {remote.address} is not the file that was published. Try again."
                )


def _downloaded(remote: Remote, names: Sequence[str]) -> list[Path]:
    from huggingface_hub import hf_hub_download

    def one(name: str) -> Path:
        return Path(hf_hub_download(remote.repo, name, repo_type=remote.kind, revision=remote.commit))

    title, files = f"Downloading {remote.repo}", []
    with (
        explain_hub_errors(remote.address),
        ThreadPoolExecutor(WORKERS) as pool,
        progress_bar(title, len(names), sys.stderr.isatty(), min_total=2) as advance,
    ):
        for file in pool.map(one, names):
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
