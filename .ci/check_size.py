"""Fail if a commit adds more than 1 MB, so that a clone stays small.

    python3 .ci/check_size.py            # every commit since this check was added
    python3 .ci/check_size.py --staged   # what is about to be committed

Files under registry/ are not counted in a commit whose subject begins with "Release the registry".
"""

import subprocess
import sys

LIMIT = 1_000_000  # bytes
RELEASE = "Release the registry"
EMPTY = "0" * 40


def git(*arguments: str, stdin: str | None = None) -> str:
    return subprocess.run(["git", *arguments], input=stdin, capture_output=True, text=True, check=True).stdout


def added_bytes(diff: str, skip_registry: bool) -> int:
    """Bytes that a raw diff adds: new files, and growth of changed ones. Renames count by what they change."""
    changes = []
    for line in diff.splitlines():
        facts, *paths = line.split("\t")
        _, _, old, new, status = facts.split()
        if status[0] != "D" and not (skip_registry and paths[-1].startswith("registry/")):
            changes.append((old, new))
    names = {name for pair in changes for name in pair if set(name) != {"0"}}
    lines = git("cat-file", "--batch-check=%(objectname) %(objectsize)", stdin="\n".join(names)).split("\n")
    size = {name: int(length) for name, length in (line.split() for line in lines if line)}
    return sum(max(0, size.get(new, 0) - size.get(old, 0)) for old, new in changes)


def main(staged: bool) -> int:
    if staged:
        totals = {"the staged changes": added_bytes(git("diff", "--cached", "--raw", "-M", "--no-abbrev"), False)}
    else:
        first = git("log", "--diff-filter=A", "--format=%H", "--", ".ci/check_size.py").split()
        commits = git("log", "--no-merges", "--format=%H %P", f"{first[-1]}..HEAD" if first else "HEAD^!").splitlines()
        totals = {}
        for commit, parent, *_ in (line.split() for line in commits if " " in line):
            subject = git("log", "-1", "--format=%s", commit).strip()
            diff = git("diff-tree", "-r", "-M", "--raw", "--no-abbrev", parent, commit)
            totals[f"{commit[:10]} ({subject})"] = added_bytes(diff, subject.startswith(RELEASE))
    large = {name: total for name, total in totals.items() if total > LIMIT}
    for name, total in large.items():
        print(f"{name} adds {total / 1e6:.1f} MB; a commit may add {LIMIT / 1e6:.0f} MB. See CONTRIBUTING.md.")
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(main("--staged" in sys.argv[1:]))
