"""Write a registry entry: parameters, quality part, facts and a model card, all or nothing."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from ea_jax.arrays import Params
from ea_jax.checkpoint import save_params
from ea_jax.durable import swap_folder
from ea_jax.fitting import Fitted
from ea_jax.heldout import KEEP_SOURCE
from ea_jax.quality_store import sizes_of
from ea_jax.registry import Space

ROWS = {
    "store": 'adapter, `purpose="store"`',
    "query": 'adapter, `purpose="query"`',
    KEEP_SOURCE: "keep the source model on both sides",
}


def save_entry(
    root: Path,
    fitted: Fitted,
    source: Space,
    target: Space,
    *,
    flavor: str,
    encoder: dict[str, Any],
    metrics: dict[str, Any],
    description: str,
) -> Path:
    """Write `<root>/<source>--<target>--<flavor>/`, replacing an entry of that name once the new one is whole.

    Args:
        root: The registry folder; it is made if it is not there.
        fitted: What `fit` returned.
        source: Space of the embeddings that come in.
        target: Space that they go to.
        flavor: Which of several adapters between the two.
        encoder: Facts of the encoder it was fitted on, with their fingerprint.
        metrics: By test set, what `held_out_figures` returned.
        description: What the pairs were, for people.

    Returns:
        The entry's folder.
    """
    facts = {
        "family": fitted.family,
        "source": source.id,
        "target": target.id,
        "flavor": flavor,
        "d_in": source.width,
        "d_out": target.width,
        "unit_norm": target.unit_norm,
        "sizes": fitted.sizes,
        "description": description,
        "tags": [],
        "encoder": encoder,
        "training": fitted.report,
        "metrics": metrics,
    }
    name = f"{source.alias}--{target.alias}--{flavor}"
    card = front_matter(name, (source, target), metrics, "apache-2.0") + _card(facts, source.alias, target.alias)
    return write_entry(root, name, facts, fitted.params, fitted.quality, sizes_of(fitted.quality), card)


def write_entry(
    root: Path, name: str, facts: dict[str, Any], params: Params, quality: Params, sizes: dict[str, int], card: str
) -> Path:
    """Write an entry's folder, replacing one of that name once the new one is whole.

    Args:
        root: The registry folder; it is made if it is not there.
        name: Of the folder.
        facts: Of `entry.toml`, but those of the two checkpoints.
        params: The adapter's, as they are stored.
        quality: Of the quality part, likewise.
        sizes: What the shapes of the quality part follow from.
        card: The model card.
    """
    root.mkdir(parents=True, exist_ok=True)
    entry = root / name.replace("/", "_")
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        new = Path(scratch) / entry.name
        new.mkdir()
        stored = {
            "params": save_params(new / "params", params),
            "quality": {"sizes": sizes, **save_params(new / "quality", quality)},
        }
        (new / "entry.toml").write_text(tomli_w.dumps(facts | stored), encoding="utf-8")
        (new / "card.md").write_text(card, encoding="utf-8")
        swap_folder(new, entry)
    return entry


def metrics_table(metrics: dict[str, Any], rows: dict[str, str]) -> str:
    """Figures as a Markdown table: one row a map, one group of columns a test set."""
    names = list(metrics)
    head = ["", *(f"{name} cosine | {name} R@1 / 5 / 10" for name in names)]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: | ---: |" * len(names)]
    for row, label in rows.items():
        cells = [_cells(metrics[name][row]) for name in names]
        lines.append("| " + " | ".join([label, *cells]) + " |")
    return "\n".join(lines)


def _cells(figures: dict[str, float]) -> str:
    cosine = f"{figures['cosine']:.3f}" if "cosine" in figures else ""
    return f"{cosine} | " + " / ".join(f"{figures[f'recall@{k}']:.3f}" for k in (1, 5, 10))


def _listed(facts: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}".replace("_", " ") for key, value in facts.items())


def _kernel_told(facts: dict[str, Any]) -> str:
    sizes = facts["sizes"]
    return (
        f"One affine map plus {sizes['landmarks']:,} radial functions on the sphere, mixed down to {sizes['rank']:,} "
        "features (Nystrom kernel ridge regression),"
    )


TOLD = {
    "linear": lambda facts: "One affine map",
    "kernel": _kernel_told,
    "mlp": lambda facts: f"One affine map plus a gated network {facts['sizes']['width']:,} wide",
}


def _choice(training: dict[str, Any]) -> str:
    return "\n".join(f"- `{purpose}`: {_listed(training[purpose])}" for purpose in ("store", "query"))


def _curve(training: dict[str, Any]) -> str:
    points = training["learning_curve"]
    if not points:
        return ""
    told = ", ".join(f"{rank:.3f} with {int(pairs):,} pairs" for pairs, rank in points.items())
    return f"Learning curve, mean reciprocal rank on a held-out fold: {told}.\n\n"


def front_matter(name: str, between: Sequence[Space], metrics: Mapping[str, Any], licence: str | None = None) -> str:
    """What a model card begins with, in the form that the Hugging Face hub reads, which shows the figures beside it.

    Args:
        name: Of the adapter.
        between: Its spaces; those whose models are on the hub are its base models.
        metrics: Figures by test set, then by row.
        licence: Its licence, as the hub abbreviates it; not told if None.
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


def _card(facts: dict[str, Any], source: str, target: str) -> str:
    training = facts["training"]
    near = training.get("near_duplicates", 0)
    measured = (
        f"""## Measured

Mean cosine to the native vector, and the share of queries whose native top hit is among the first 1, 5 and 10, each
query ranking a corpus of native {target} vectors. No test row, nor a near-duplicate of one, was fitted on.

{metrics_table(facts["metrics"], ROWS)}

"""
        if facts["metrics"]
        else ""
    )
    weak = "".join(f"- {line}\n" for line in training["advice"])
    return f"""
# {source} to {target}, flavor {facts["flavor"]}

{TOLD[facts["family"]](facts)} from embeddings of `{facts["source"]}` (width {facts["d_in"]})
to the space of `{facts["target"]}` (width {facts["d_out"]}), in two versions: `store` is faithful, `query` ranks best.

```python
from ea_jax import load

adapt = load("{source}", "{target}", flavor="{facts["flavor"]}")
y = adapt(adapt.params, x)
```

## Fitted on

{facts["description"]}

{training["pairs"]:,} pairs; {near:,} more were left out as near-duplicates of test queries. Chosen on folds of
{training["groups"]:,} groups, which no fold shares, with the figure that decided:

{_choice(training)}

{_curve(training)}{measured}## Limits

{weak}- It knows what its pairs knew. Text of another kind, language or length is mapped less well: read the confidence,
  and judge the adapter on your own data.
- Scores of `query` vectors are for ranking; `Quality.native_similarity` puts them on the scale of native similarities.
"""
