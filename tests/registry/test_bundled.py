"""The bundled adapters: intact, with correct cards, and with low confidence for junk."""

import base64
import importlib.util
import random
import shutil
import string
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from ea_jax.data.pairs import Pairs
from ea_jax.loading import load, load_quality
from ea_jax.registry.fingerprint import check_fingerprint
from ea_jax.registry.locations import BUNDLED
from ea_jax.registry.lookup import list_entries
from ea_jax.registry.model_card import ROWS, format_metrics
from ea_jax.registry.spaces import find_space
from ea_jax.retrieval.held_out import held_out_metrics
from ea_jax.workflows.fit_entry import split_test_pairs

ENTRIES = list_entries(BUNDLED)

ORDINARY = [
    "Where can I get a hamburger near me?",
    "NASA announces the discovery of an Earth-like exoplanet.",
    "How do I build a retrieval pipeline for my documents?",
    "The river rises in the northern hills and reaches the sea after two hundred miles.",
    "She was appointed director of the museum in the spring of that year.",
    "The reaction releases heat, so the vessel has to be cooled from outside.",
    "Interest rates were left unchanged by the central bank on Thursday.",
    "A small company in Ohio makes most of the country's harmonicas.",
    "What is the difference between a virus and a bacterium?",
    "The second half of the film is set in Lisbon during the war.",
    "Players take turns drawing a card and moving a piece along the board.",
    "The patch fixes a memory leak in the parser that appeared in version two.",
    "Which team won the championship in the year of the strike?",
    "Wind and solar power supplied a third of the region's electricity.",
    "He learned to play the violin from his grandmother.",
    "The committee will publish its recommendations on housing next month.",
    "Adding salt raises the boiling point of the water only slightly.",
    "The old railway station has been turned into a public library.",
    "Customers can return unopened goods within thirty days.",
    "Migrating birds find their way by the stars and by the Earth's magnetic field.",
]


def junk(n: int = 40) -> dict[str, list[str]]:
    """Junk texts by kind, each as long as a sentence."""
    rng = random.Random(0)
    symbols = string.punctuation + string.digits + " "
    return {
        "punctuation": ["".join(rng.choices(symbols, k=rng.randint(20, 60))) for _ in range(n)],
        "base64": [base64.b64encode(rng.randbytes(rng.randint(20, 60))).decode() for _ in range(n)],
        "repeated syllables": [rng.choice(["asdf", "lol", "xx", "qwe", "ab"]) * rng.randint(5, 20) for _ in range(n)],
        "random letters": ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(20, 60))) for _ in range(n)],
    }


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_bundled_adapter_is_intact_and_unit_norm(entry):
    x = np.random.default_rng(0).normal(size=(3, entry.d_in)).astype(np.float32)
    for purpose in ("store", "query"):
        adapt = load(entry.source, entry.target, flavor=entry.flavor, purpose=purpose)
        np.testing.assert_allclose(np.linalg.norm(adapt(adapt.params, x), axis=1), 1, rtol=1e-5)
    judge = load_quality(entry.source, entry.target, flavor=entry.flavor)
    assert np.all(np.isfinite(judge(judge.params, x).confidence))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_card_shows_the_metrics_of_the_entry(entry):
    assert format_metrics(dict(entry.metrics), ROWS) in (entry.path / "card.md").read_text()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_hub_reads_the_metrics_in_the_cards(entry):
    card = ModelCard.load(entry.path / "card.md").data
    models = [model for model in (entry.source, entry.target) if find_space(model).local]
    assert (card.library_name, card.license, card.base_model) == ("ea_jax", "apache-2.0", models or None)
    assert card.model_name == entry.name
    found = {(r.dataset_name, r.metric_name): r.metric_value for r in card.eval_results}
    wanted = {
        (test, f"{figure}, {row}"): value
        for test, rows in entry.metrics.items()
        for row in ("store", "query")
        for figure, value in rows[row].items()
    }
    assert found == wanted
    assert len(wanted) == 16


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_query_vectors_rank_better_and_store_vectors_are_closer(entry):
    for rows in entry.metrics.values():
        assert rows["query"]["recall@10"] > rows["store"]["recall@10"]
        assert rows["store"]["cosine"] > rows["query"]["cosine"]


def test_the_bundled_adapters_are_within_forty_megabytes():
    assert sum(file.stat().st_size for file in BUNDLED.rglob("*") if file.is_file()) <= 40e6


def test_the_adapter_was_fitted_on_this_encoder(minilm):
    check_fingerprint(next(e for e in ENTRIES if e.name == "minilm--oai-3-small--small"), minilm.spec.facts())


def test_junk_scores_below_ordinary_text(minilm):
    judge = load_quality("minilm", "oai-3-small")

    def confidence(texts):
        return np.asarray(judge(judge.params, minilm(texts)).confidence)

    ordinary = confidence(ORDINARY)
    kinds = {kind: confidence(texts) for kind, texts in junk().items()}
    for kind, scores in kinds.items():
        assert scores.mean() < ordinary.mean() - 0.4, kind
    noise = np.concatenate(list(kinds.values()))
    assert np.mean(ordinary[:, None] > noise[None]) > 0.98  # AUROC
    assert np.median(ordinary) > 0.5


@pytest.mark.slow
def test_recorded_metrics_are_reproduced_on_a_sample_of_real_pairs(minilm, shared_data):
    spec = importlib.util.spec_from_file_location("split", shared_data / "split.py")
    split = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(split)
    rows, y = split.rows(), split.vectors()
    short = [i for i, row in enumerate(rows) if len(row["text"]) < 2000]
    rows, y = [rows[i] for i in short], y[short]
    parts = split.standard_split(rows)
    corpus = np.random.default_rng(0).permutation(parts["across_corpus"])
    index = np.concatenate([parts["across_query"][:400], corpus[:1500]])
    x = minilm([rows[i]["text"] for i in index])
    test = split_test_pairs(Pairs(y=y[index], x=x, query=np.arange(len(index)) < 400), "across", "minilm")
    adapters = {purpose: load("minilm", "oai-3-small", purpose=purpose) for purpose in ("store", "query")}
    found = held_out_metrics(test, {row: np.asarray(adapt(adapt.params, test.x)) for row, adapt in adapters.items()})
    recorded = next(e for e in ENTRIES if e.name == "minilm--oai-3-small--small").metrics
    across = recorded[list(recorded)[-1]]
    for row in adapters:
        assert found[row]["cosine"] == pytest.approx(across[row]["cosine"], abs=0.02)
    assert found["keep_source"]["recall@10"] > found["query"]["recall@10"] > found["store"]["recall@10"] + 0.05


def test_a_changed_byte_in_a_bundled_adapter_is_detected(tmp_path):
    root = Path(shutil.copytree(BUNDLED, tmp_path / "registry"))
    file = root / "minilm--oai-3-small--small" / "quality" / "references" / "0.0"
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    assert load("minilm", "oai-3-small", root=root)
    with pytest.raises(ValueError, match=r"references/0\.0 was changed"):
        load_quality("minilm", "oai-3-small", root=root)
