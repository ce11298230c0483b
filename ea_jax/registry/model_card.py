"""Model cards of registry entries."""

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
    """Format metrics as a Markdown table with a row for each map and two columns for each test set."""
    names = list(metrics)
    head = ["", *(f"{name} cosine | {name} R@1 / 5 / 10" for name in names)]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: | ---: |" * len(names)]
    for row, label in (rows | _member_labels(metrics[names[0]])).items():
        cells = [_cells(metrics[name][row]) for name in names]
        lines.append("| " + " | ".join([label, *cells]) + " |")
    return "\n".join(lines)


def _member_labels(rows: Mapping[str, Any]) -> dict[str, str]:
    """Labels of the rows in which one member of a composite is kept on both sides."""
    kept = [row for row in rows if row.startswith("keep_") and row != KEEP_SOURCE]
    return {row: f"keep {row.removeprefix('keep_')} alone on both sides" for row in kept}


def _cells(scores: dict[str, float]) -> str:
    cosine = f"{scores['cosine']:.3f}" if "cosine" in scores else ""
    return f"{cosine} | " + " / ".join(f"{scores[f'recall@{k}']:.3f}" for k in (1, 5, 10))


def format_front_matter(
    name: str, spaces: Sequence[Space], metrics: Mapping[str, Any], license: str | None = None
) -> str:
    """Format the front matter of a model card, from which the Hugging Face hub shows the metrics.

    Args:
        name: Name of the adapter.
        spaces: Spaces of the adapter. Those with a model on the hub become its base models.
        metrics: Metrics by test set, then by row.
        license: Identifier of the license on the hub; omitted if None.
    """
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="feature-extraction",
            dataset_type=test,
            dataset_name=test,
            metric_type=metric,
            metric_name=f"{metric}, {row}",
            metric_value=value,
        )
        for test, rows in metrics.items()
        for row in ("store", "query")
        for metric, value in rows.get(row, {}).items()
    ]
    facts = ModelCardData(
        library_name="ea_jax",
        license=license,
        base_model=[space.id for space in spaces if space.local] or None,
        pipeline_tag="feature-extraction",
        tags=["embeddings", "embedding-adapter", "jax", "flax"],
        model_name=name,
        eval_results=results or None,
    )
    return f"---\n{facts.to_yaml()}\n---\n"


def summarize_comparison(facts: dict[str, Any]) -> str:
    """Say in a sentence whether the adapter beats keeping the source model.

    The last test set decides, or the held-out pairs of the fit if there is none. Entries list test sets from held-out
    sources last; these are the more informative ones.
    """
    metrics, training = facts["metrics"], facts["training"]
    name = list(metrics)[-1] if metrics else "held-out pairs"
    scores = metrics[name] if metrics else training
    kept = max((row for row in scores if row.startswith("keep_")), key=lambda row: scores[row]["recall@10"])
    model = "the source model" if kept == KEEP_SOURCE else kept.removeprefix("keep_")
    if not metrics and training["kept"] != "source":
        model = training["kept"]
    adapted, keep = (scores[row]["recall@10"] for row in ("query", kept))
    error = (adapted * (1 - adapted) / training["held_out_queries"]) ** 0.5
    beats = "beats" if adapted > keep + error else "does not beat" if adapted < keep - error else "is as good as"
    where = "held-out sources" if name == "across" else name
    return (
        f"On {where}, this adapter {beats} keeping {model} on both sides: {adapted:.1%} of the queries find their true "
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
    """Format the body of a model card.

    Args:
        facts: Facts of the entry.
        source: Alias of the source model.
        target: Alias of the target model.
    """
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
to the space of `{facts["target"]}` (width {facts["d_out"]}), for two purposes: `store` vectors are closest to
native ones, `query` vectors rank best.

{summarize_comparison(facts)}

```python
from ea_jax import load

adapt = load("{source}", "{target}", flavor="{facts["flavor"]}", purpose="query")
y = adapt(adapt.params, x)
```

## Training data

{facts["description"] or "The pairs are not described."}

{training["pairs"]:,} pairs of {training["groups"]:,} groups.{left_out} Ridge penalty {training["penalty"]:g}, prior:
{training["prior"] or "none"}, steps of fine-tuning: {training["fine_tuning_steps"]}.

{measured}## Limits

- Text of another kind, language or length is mapped less accurately. Check the confidence, and evaluate on your data.
- A fit on the texts and vectors of your own index, with this adapter as the prior, is better: `ea-jax fit`.
- Scores of `query` vectors only rank. `Quality.native_similarity` converts them to the scale of native similarities.
"""
