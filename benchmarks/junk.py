"""Does a confidence tell junk from text? By kind, with heads that have not seen the kind, and by the true cosine."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.corpora import JUNK, LOCAL, foreign, texts
from benchmarks.tasks import TASKS
from ea_jax import load_encoder
from ea_jax.fitting import Foreign
from ea_jax.fitting.confidence import ORDINARY as MOST
from ea_jax.fitting.confidence import junk_head
from ea_jax.junk import junk_texts
from ea_jax.quality import Quality, Scores

ORDINARY = ("ag_news", "trec_questions")
EACH, SEED = 200, 11
SAME, MOSTLY = 0.999, 0.5
GOODNESS: dict[str, Callable[[Scores], jax.Array]] = {
    "novelty": lambda s: -s.novelty,
    "confidence": lambda s: s.confidence,
}
SCORES = tuple(GOODNESS)


class Test(NamedTuple):
    """Ordinary vectors, junk by kind, and which share of a kind has the vector of some ordinary text."""

    ordinary: np.ndarray
    kinds: dict[str, np.ndarray]
    same: dict[str, float]


@lru_cache(maxsize=2)
def junk_test(model: str, data: Path, build: Path) -> Test:
    """What a local model makes of ordinary texts and of junk from the generators of the fit, by another seed."""
    corpus, encode = texts(data, build, (model,)), load_encoder(model)
    rows = np.isin(corpus.source, ORDINARY)
    ordinary = corpus.vectors[model][rows]
    kinds = {kind: encode(made) for kind, made in _texts(data, build, model).items()}
    same = {kind: float(np.mean((made @ ordinary.T).max(axis=1) >= SAME)) for kind, made in kinds.items()}
    return Test(ordinary, kinds, same)


def _texts(data: Path, build: Path, model: str) -> dict[str, list[str]]:
    corpus = texts(data, build, (model,))
    return junk_texts([t for t, s in zip(corpus.text, corpus.source, strict=True) if s in ORDINARY], EACH, SEED)


def junk_figures(
    judge: Quality, apply: Callable[..., np.ndarray], task: str, seen: np.ndarray | None, data: Path, build: Path
) -> dict[str, Any] | None:
    """AUROC of novelty and of confidence between ordinary texts and junk; None for source models that run elsewhere.

    The head has seen junk from the same generators, but other texts of it; and neither AG News nor questions. `of other
    vectors` leaves out the kinds that the encoder maps to vectors of ordinary texts: no score of a vector tells those.

    Args:
        judge: The quality part.
        apply: The adapter.
        task: Its task.
        seen: Inputs of its fit, to fit heads anew without each kind; None for no such heads.
        data: Shared data.
        build: Where vectors are kept.
    """
    source, target, _ = TASKS[task]
    known = foreign(data, build, source)
    if known is None:
        return None
    test = junk_test(source, data, build)

    normal = judge(judge.params, test.ordinary)
    said = {kind: judge(judge.params, made) for kind, made in test.kinds.items()}
    others = [kind for kind in said if test.same[kind] < MOSTLY]
    sets = {kind: [kind] for kind in said} | {"all": list(said), "of other vectors": others}
    told: dict[str, Any] = {
        score: {name: _auroc(score, normal, [said[kind] for kind in kinds]) for name, kinds in sets.items()}
        for score in SCORES
    }
    told["same vector"] = test.same
    if seen is not None:
        told["kinds not seen"] = {}
        for place, kind in enumerate(test.kinds):
            params = judge.params | {"junk": _without(known, place, seen)}
            unseen = judge(params, test.ordinary), [judge(params, test.kinds[kind])]
            told["kinds not seen"][kind] = _auroc("confidence", *unseen)
    if target in LOCAL:
        told["cosine"] = _cosines(judge, apply, test, target, _texts(data, build, source))
    return told


def _auroc(score: str, normal: Scores, junk: list[Scores]) -> float:
    """Of ordinary text against junk of some kinds."""
    good, *bad = (np.asarray(GOODNESS[score](one)) for one in (normal, *junk))
    rows = np.concatenate([good, *bad])
    return float(roc_auc_score(np.arange(len(rows)) < len(good), rows))


def _without(known: Foreign, place: int, seen: np.ndarray) -> Any:
    """The junk head fitted without one kind."""
    kind = np.arange(len(known.junk)) // JUNK
    rows = np.asarray(seen[np.random.default_rng(0).permutation(len(seen))[:MOST]], np.float32)
    head = junk_head(rows / np.linalg.norm(rows, axis=1, keepdims=True), known._replace(junk=known.junk[kind != place]))
    return jax.tree.map(jnp.asarray, head)


def _cosines(
    judge: Quality, apply: Callable[..., np.ndarray], test: Test, target: str, made: dict[str, list[str]]
) -> dict[str, dict[str, float]]:
    """Where the target model runs here too: the true cosine of junk, beside what was expected of it."""
    encode, told = load_encoder(target), {}
    for kind, x in test.kinds.items():
        scores = judge(judge.params, x)
        came = np.sum(apply(x, "store") * encode(made[kind]), axis=1)
        told[kind] = {
            "came": float(came.mean()),
            "said": float(np.mean(np.asarray(scores.expected_cosine))),
            "coverage": float(np.mean(came >= np.asarray(scores.expected_cosine_lower))),
        }
    return told


def junk_table(out: dict[str, Any]) -> str:
    """The README's table: a line a kind; the adapters of each source model in columns, the least of them."""
    found = {name: told["junk"] for name, told in out.items() if told["junk"]}
    kinds = list(next(iter(found.values()))["same vector"])
    sources = {name.split("--")[0]: None for name in found}
    head = " | ".join(f"{source}: novelty | confidence | kind not seen | same vector" for source in sources)
    lines = [f"| | {head} |", "| --- |" + " ---: |" * (4 * len(sources))]
    for kind in [*kinds, "all", "of other vectors"]:
        cells = [kind]
        for source in sources:
            own = [junk for name, junk in found.items() if name.split("--")[0] == source]
            least = [min(junk[score][kind] for junk in own) for score in SCORES]
            unseen = [junk["kinds not seen"][kind] for junk in own if kind in junk.get("kinds not seen", {})]
            cells += [f"{value:.2f}" for value in (*least, *([min(unseen)] if unseen else []))]
            cells += [f"{own[0]['same vector'][kind]:.0%}"] if unseen else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
