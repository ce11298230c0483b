"""Fit the bundled adapters: `small` and `large` for every pair of spaces that the shared data supports.

    python -m benchmarks.registry ../shared/data build registry [NAME...]

Each is fitted on the training sources of its task (benchmarks/tasks.py), which are the corpus in domain, and judged on
rows and on sources that it has not seen. An entry that is there already is made anew only where it is named.
"""

import gzip
import json
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.corpora import foreign
from benchmarks.tasks import TASKS, Task, load_task
from ea_jax import load_encoder
from ea_jax.entries import save_entry
from ea_jax.fitting import Budget, Family, fit
from ea_jax.heldout import held_out_figures
from ea_jax.loading import PURPOSES
from ea_jax.recipe import provider_facts
from ea_jax.registry import Space, find_space

SMALL = Budget(bits=7)
FEW = Budget(landmarks=768, rank=128)
BUDGETS = {
    "minilm--oai-3-small": Budget(landmarks=12_288, rank=768),
    "oai-3-small--minilm": Budget(landmarks=1280, rank=256),
    "minilm--wordllama": Budget(landmarks=4096, rank=256),
    "wordllama--minilm": Budget(landmarks=4096, rank=256),
    "oai-3-small--wordllama": Budget(landmarks=1280, rank=256),
    "oai-ada-002--minilm": Budget(landmarks=1024, rank=256),
    "oai-ada-002--wordllama": Budget(landmarks=1024, rank=192),
    **dict.fromkeys(("minilm--nomic", "nomic--minilm", "wordllama--nomic", "nomic--wordllama"), FEW),
}
LARGE = Budget(landmarks=2048, rank=256)
SETS = {
    "oai-3-small": "texts under 2,000 characters with the vectors that OpenAI returned for them, from vector stores in "
    "public repositories: mostly descriptions of entities (a title, a colon and a sentence or two), some reports",
    "oai-ada-002": "texts under 2,000 characters with the vectors that OpenAI returned for them, from vector stores in "
    "public repositories: documentation, filings, law, mostly chunks of about 1,100 characters",
    "nomic": "texts under 2,000 characters with vectors of nomic-embed-text (v1 or v1.5, prefix not recorded), from "
    "vector stores in public repositories: descriptions of entities and documentation",
    "mixed": "public texts embedded with both models on one machine: questions, definitions, dialogue, reviews, "
    "trivia, medical",
}


def name_of(task: str) -> str:
    """Registry name of a task's pair, without the flavor."""
    return task.removesuffix("--mixed")


def description(task: str, made: Task, data: Path) -> str:
    """What the pairs were, by which licences, from which sources most."""
    where = TASKS[task][2]
    most = ", ".join(f"{source} ({count:,})" for source, count in Counter(made.groups.tolist()).most_common(5))
    told = f"English {SETS[where]}. Largest sources: {most}."
    if where == "mixed":
        return told
    with gzip.open(data / "pairs" / f"{where}.jsonl.gz", "rt", encoding="utf-8") as lines:
        licence = {row["source"]: row["licence"] for row in map(json.loads, lines)}
    by = Counter(licence[source] for source in made.groups.tolist())
    shares = ", ".join(f"{name} {count:,}" for name, count in by.most_common())
    return f"{told} Pairs by licence of the source repository: {shares}. No text is part of this adapter."


def make(task: str, flavor: str, data: Path, build: Path, out: Path) -> None:
    """Fit, judge and write one entry."""
    source, target = (find_space(name) for name in TASKS[task][:2])
    made = load_task(task, data, build)
    family: Family = "linear" if flavor == "small" else "auto"
    budget = SMALL if flavor == "small" else BUDGETS.get(name_of(task), LARGE)
    began = time.monotonic()
    known = foreign(data, build, source.alias)
    fitted = fit(
        made.x,
        made.y,
        family=family,
        budget=budget,
        domains=made.groups.tolist(),
        foreign=known,
        corpus_size=len(made.x),
    )
    metrics = {
        name: held_out_figures(made.sides[side].test, {p: fitted.apply(made.sides[side].test.x, p) for p in PURPOSES})
        for name, side in {"in-domain": "in", "across": "across"}.items()
    }
    report = fitted.report | {"near_duplicates": made.left_out, "near_duplicate_cosine": 0.95, "seed": 0}
    for line in fitted.report["advice"]:
        print(f"  {line}")
    save_entry(
        out,
        replace(fitted, report=report),
        source,
        target,
        flavor=flavor,
        encoder=facts(source),
        metrics=metrics,
        description=description(task, made, data),
    )
    size = sum(f.stat().st_size for f in (out / f"{name_of(task)}--{flavor}").rglob("*") if f.is_file())
    rows = {
        name: {row: (f.get("cosine"), f["recall@1"], f["recall@10"]) for row, f in m.items()}
        for name, m in metrics.items()
    }
    print(
        f"{name_of(task)}--{flavor} {fitted.family} {time.monotonic() - began:.0f} s, {size / 1e6:.2f} MB, {rows}",
        flush=True,
    )


def facts(space: Space) -> dict[str, Any]:
    """Facts of the encoder behind a space."""
    return load_encoder(space.id).spec.facts() if space.local else provider_facts(space)


def main(data: Path, build: Path, out: Path, names: list[str]) -> None:
    """Make the entries that are named, or those that are not there."""
    for flavor in ("large", "small"):
        for task in TASKS:
            name = f"{name_of(task)}--{flavor}"
            if not task.endswith("ag-news") and (name in names if names else not (out / name).exists()):
                make(task, flavor, data, build, out)


if __name__ == "__main__":
    from ea_jax.cli.device import start_jax

    start_jax()
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
