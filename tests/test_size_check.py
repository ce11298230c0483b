"""The check that a commit adds at most 1 MB, on a repository made here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parent.parent / ".ci" / "check_size.py"
NAMES = {f"GIT_{role}_{fact}": "nobody@example.com" for role in ("AUTHOR", "COMMITTER") for fact in ("NAME", "EMAIL")}


@pytest.fixture
def commit(tmp_path):
    """Write a file of a size, commit it under a subject, and run the check."""
    environment = os.environ | NAMES | {"GIT_CONFIG_GLOBAL": os.devnull}

    def run(*command, **options):
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, **options)

    run("git", "init", "-q", check=True)
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "check_size.py").write_bytes(CHECK.read_bytes())
    run("git", "add", "-A", check=True)
    run("git", "commit", "-qm", "Add the check", check=True)

    def commit(name: str, size: int, subject: str):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(os.urandom(size))
        run("git", "add", "-A", check=True)
        staged = run(sys.executable, ".ci/check_size.py", "--staged")
        run("git", "commit", "-qm", subject, check=True)
        return staged, run(sys.executable, ".ci/check_size.py")

    return commit


def test_a_small_commit_passes(commit):
    staged, committed = commit("a.bin", 900_000, "Add a file")
    assert (staged.returncode, committed.returncode) == (0, 0)


def test_a_large_commit_is_named_with_its_size(commit):
    staged, committed = commit("a.bin", 1_200_000, "Add a file")
    assert (staged.returncode, committed.returncode) == (1, 1)
    assert "(Add a file) adds 1.2 MB; a commit may add 1 MB." in committed.stdout


def test_a_release_of_the_registry_may_be_large(commit):
    _, committed = commit("registry/params.bin", 1_200_000, "Release the registry of 0.2.0")
    assert committed.returncode == 0
    _, committed = commit("other.bin", 1_200_000, "Release the registry of 0.2.1")
    assert committed.returncode == 1
