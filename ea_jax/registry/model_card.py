"""Write a registry entry: parameters, quality part, facts and a model card, all or nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from ea_jax.adapters.families import find_family
from ea_jax.registry.spaces import Space
from ea_jax.retrieval.held_out import KEEP_SOURCE

ROWS = {
    "store": 'adapter, `purpose="store"`',
    "query": 'adapter, `purpose="query"`',
    KEEP_SOURCE: "keep the source model on both sides",
}


def format_metrics(metrics: dict[str, Any], rows: dict[str, str]) -> str:
    """Figures as a Markdown table: one row a map, one group of columns a test set."""
    names = list(metrics)
    head = ["", *(f"{name} cosine | {name} R@1 / 5 / 10" for name in names)]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: | ---: |" * len(names)]
    for row, label in (rows | _kept(metrics[names[0]])).items():
        cells = [_cells(metrics[name][row]) for name in names]
        lines.append("| " + " | ".join([label, *cells]) + " |")
    return "\n".join(lines)


def _kept(rows: Mapping[str, Any]) -> dict[str, str]:
    """Labels of the rows for keeping the source model, or one member of a composite."""
    kept = [row for row in rows if row.startswith("keep_") and row != KEEP_SOURCE]
    return {row: f"keep {row.removeprefix('keep_')} alone on both sides" for row in kept}


def _cells(figures: dict[str, float]) -> str:
    cosine = f"{figures['cosine']:.3f}" if "cosine" in figures else ""
    return f"{cosine} | " + " / ".join(f"{figures[f'recall@{k}']:.3f}" for k in (1, 5, 10))


def format_front_matter(
    name: str, between: Sequence[Space], metrics: Mapping[str, Any], licence: str | None = None
) -> str:
    """Front matter of a model card, in the form that the Hugging Face hub reads to show the figures.

    Args:
        name: Of the adapter.
        between: Its spaces; those whose models are on the hub are its base models.
        metrics: Figures by test set, then by row.
        licence: Its licence, as the hub abbreviates it; omitted if None.
    """
    from huggingface_hub import EvalResult, ModelCardData

    figures = [
        EvalResult(
            task_type="feature-extraction",
            dataset_type=test,
            dataset_name=test,
            metric_type=figure,
            metric_name=f"{figure}, {row}",
            metric_value=value,
        )
        for test, rows in metrics.items()
        for row in ("store", "query")
        for figure, value in rows.get(row, {}).items()
    ]
    facts = ModelCardData(
        library_name="ea_jax",
        license=licence,
        base_model=[space.id for space in between if space.local] or None,
        pipeline_tag="feature-extraction",
        tags=["embeddings", "embedding-adapter", "jax", "flax"],
        model_name=name,
        eval_results=figures or None,
    )
    return f"---\n{facts.to_yaml()}\n---\n"


def summarize_comparison(facts: dict[str, Any]) -> str:
    """A sentence: does the adapter beat keeping the source model, on the last test set or on the fit's held-out pairs?

    Test sets of held-out sources come last in an entry, and say more than those of sources that were fitted on.
    """
    metrics, training = facts["metrics"], facts["training"]
    name = list(metrics)[-1] if metrics else "held-out pairs"
    figures = metrics[name] if metrics else training
    kept = max((row for row in figures if row.startswith("keep_")), key=lambda row: figures[row]["recall@10"])
    model = "the source model" if kept == KEEP_SOURCE else kept.removeprefix("keep_")
    if not metrics and training["kept"] != "source":
        model = training["kept"]
    ours, keep = (figures[row]["recall@10"] for row in ("query", kept))
    error = (ours * (1 - ours) / training["held_out_queries"]) ** 0.5
    beats = "beats" if ours > keep + error else "does not beat" if ours < keep - error else "is as good as"
    where = "sources that were held out" if name == "across" else name
    return (
        f"On {where}, this adapter {beats} keeping {model} on both sides: {ours:.1%} of the queries find their true "
        f"neighbor among the first ten, against {keep:.1%} after embedding the corpus again."
    )


def _describe_overlap(training: Mapping[str, Any]) -> str:
    """Say which rows of the test sets were fitted on: no queries, but maybe rows of their corpora."""
    text = "The queries and their near-duplicates were left out of the fit;"
    if (fitted := training.get("fitted_corpus_rows")) is None:
        return f"{text} rows of the corpus may have been fitted on."
    counts = ", ".join(f"{count:,} in {name}" for name, count in fitted.items() if count)
    return f"{text} corpus rows that were fitted on: {counts or 'none'}."


def format_card(facts: dict[str, Any], source: str, target: str) -> str:
    training = facts["training"]
    measured = (
        f"""## Measured

Mean cosine to the native vector, and the share of queries whose true neighbor is among the first 1, 5 and 10, each
query searching a corpus of native {target} vectors. {_describe_overlap(training)}

{format_metrics(facts["metrics"], ROWS)}

"""
        if facts["metrics"]
        else ""
    )
    near = training.get("near_duplicates", 0)
    left_out = f" {near:,} more were left out as near-duplicates of test queries." if near else ""
    return f"""
# {source} to {target}, flavor {facts["flavor"]}

{find_family(facts["family"]).describe(facts["sizes"])} from embeddings of `{facts["source"]}` (width {facts["d_in"]})
to the space of `{facts["target"]}` (width {facts["d_out"]}), for two purposes: `store` is faithful, `query` ranks best.

{summarize_comparison(facts)}

```python
from ea_jax import load

adapt = load("{source}", "{target}", flavor="{facts["flavor"]}", purpose="query")
y = adapt(adapt.params, x)
```

## Fitted on

{facts["description"] or "Nobody has described the pairs."}

{training["pairs"]:,} pairs of {training["groups"]:,} groups.{left_out} Ridge penalty {training["penalty"]:g}, prior:
{training["prior"] or "none"}, steps of fine-tuning: {training["fine_tuning_steps"]}.

{measured}## Limits

- Text of another kind, language or length is mapped less well: read the confidence, and measure on your own data. A fit
  on the texts and vectors of your own index, with this adapter as the prior, is better: `ea-jax fit`.
- Scores of `query` vectors are for ranking; `Quality.native_similarity` puts them on the scale of native similarities.
"""
