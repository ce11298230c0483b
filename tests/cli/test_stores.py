"""Commands on vector stores, with real engines: fit, map, publish, unpublish, check and evaluate."""

import json
import os
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ea_jax.errors import UnknownName
from ea_jax.integrations import stores
from ea_jax.integrations.stores import Layout, open_store
from ea_jax.loading import load
from tests.conftest import unit_rows, write_toy_registry
from tests.integrations.stores.conftest import need

README = Path(stores.__file__).with_name("README.md")
WORDS = ["tax", "tea", "rain", "music", "river", "engine", "garden", "letter", "bridge", "winter"]
TEXTS = [f"{a} and {b}, note {i}" for i, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS)]


@pytest.fixture(params=["sqlite-vec", "lancedb"])
def location(request, tmp_path):
    """A store URL without the name of a collection."""
    need(request.param)
    return f"{request.param}:{tmp_path / 'store'}"


@pytest.fixture
def registry(tmp_path, monkeypatch):
    root = write_toy_registry(tmp_path / "registry")
    monkeypatch.setenv("EA_JAX_REGISTRY", str(root))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return root


def fill(url: str, vectors: np.ndarray, texts: list[str | None]) -> None:
    """Write rows with ids 0, 1, ..."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1])
    ids, payload = [str(i) for i in range(len(vectors))], [json.dumps({"n": i}) for i in range(len(vectors))]
    rows = {"id": ids, "text": pa.array(texts, pa.string()), "vector": column, "payload": payload}
    with open_store(url, create=Layout(vectors.shape[1])) as store:
        store.write(pa.RecordBatch.from_pydict(rows))
        store.flush()


def read(url: str) -> dict[str, np.ndarray]:
    with open_store(url) as store:
        batches = [chunk.rows.to_pylist() for chunk in store.read(("id", "vector"))]
    return {row["id"]: np.array(row["vector"], np.float32) for batch in batches for row in batch}


def test_a_map_between_stores_is_published_and_unpublished(ea, registry, location):
    x = unit_rows(np.random.default_rng(0), 50, 8)
    fill(f"{location}#docs", x, [f"text {i}" for i in range(50)])
    is_column = location.startswith("lancedb")
    out = f"{location}#docs?vector=mapped" if is_column else f"{location}#mapped"
    public = "vector" if is_column else "docs"
    arguments = ("--source", "toy-a", "--target", "toy-b", "--publish", public)
    code, _, err = ea("map", f"{location}#docs", out, *arguments)
    assert code == 0, err
    assert "50 rows written" in err
    adapt = load("toy-a", "toy-b", root=registry)
    expected = np.asarray(adapt(adapt.params, x))
    observed = read(f"{location}#docs")
    np.testing.assert_allclose([observed[str(i)] for i in range(50)], expected, atol=1e-6)
    undo = err.split("to undo: ea-jax ")[1].split("\n")[0].split(" ")
    assert ea(*undo)[0] == 0
    observed = read(f"{location}#docs")
    np.testing.assert_allclose([observed[str(i)] for i in range(50)], x, atol=1e-6)


@pytest.mark.parametrize("engine", ["qdrant", "sqlite-vec"])
def test_a_name_that_cannot_be_published_stops_before_any_work(ea, registry, tmp_path, engine):
    need(engine)
    location = f"{engine}:{tmp_path}/store"
    fill(f"{location}#docs", unit_rows(np.random.default_rng(0), 50, 8), [f"text {i}" for i in range(50)])
    public = {"qdrant": "docs", "sqlite-vec": "mapped"}[engine]
    names = ("--source", "toy-a", "--target", "toy-b", "--publish", public)
    code, out, err = ea("map", f"{location}#docs", f"{location}#mapped", *names)
    assert (code, out) == (1, "")
    assert "is a collection, and Qdrant cannot rename" in err or "cannot be published under its own name" in err
    with pytest.raises(UnknownName, match="mapped"):
        open_store(f"{location}#mapped")


def test_vectors_of_another_model_are_not_mapped(ea, registry, tmp_path):
    need("sqlite-vec")
    url, out = f"sqlite-vec:{tmp_path}/a.db#docs", f"sqlite-vec:{tmp_path}/b.db#mapped"
    vectors = np.repeat(unit_rows(np.random.default_rng(0), 20, 384), 2, axis=0)
    fill(url, vectors, [f"text {i}" for i in range(40)])
    names = ("--source", "minilm", "--target", "oai-3-small")
    code, _, err = ea("map", url, out, *names)
    assert code == 1
    assert err.splitlines()[-1].startswith(f"ea-jax: {url}: 100% of 40 sampled vectors do not look like vectors of")
    assert err.splitlines()[-1].endswith("Use them anyway with --assume-source.")
    assert not (tmp_path / "b.db").exists()
    assert ea("map", url, out, *names, "--assume-source")[0] == 0
    assert len(read(out)) == 40


def test_a_failed_fit_leaves_no_new_space(ea, registry, tmp_path):
    need("sqlite-vec")
    url = f"sqlite-vec:{tmp_path}/a.db#docs"
    fill(url, unit_rows(np.random.default_rng(0), 60, 8), [f"text {i}" for i in range(60)])
    code, _, err = ea("fit", url, "--source", "toy-a", "--target", "our-model")
    assert code == 1
    assert f"{url} has no column x, and toy/source does not run here" in err
    assert not list((tmp_path / "data").rglob("*"))


def test_another_table_of_the_same_folder_is_a_separate_store(ea, registry, tmp_path):
    need("lancedb")
    location, x = f"lancedb:{tmp_path / 'store'}", unit_rows(np.random.default_rng(0), 50, 8)
    fill(f"{location}#docs", x, [f"text {i}" for i in range(50)])
    code, out, err = ea("map", f"{location}#docs", f"{location}#mapped", "--source", "toy-a", "--target", "toy-b")
    assert (code, out) == (0, f"{location}#mapped\n"), err
    with open_store(f"{location}#docs") as docs, open_store(f"{location}#mapped") as mapped:
        assert (docs.describe().vectors, mapped.describe().rows) == (("vector",), 50)
        texts = [text for rows, _ in mapped.read(("text",)) for text in rows.column("text").to_pylist()]
    assert texts == [f"text {i}" for i in range(50)]


def test_the_readme_commands_run(ea, registry, tmp_path, monkeypatch):
    need("qdrant")
    monkeypatch.chdir(tmp_path)
    fill("qdrant:./qdrant#docs", unit_rows(np.random.default_rng(0), 50, 8), [f"text {i}" for i in range(50)])
    with open_store("qdrant:./qdrant#docs") as store:
        store.publish("live")
    lines = [line for line in README.read_text().splitlines() if line.startswith("ea-jax ")]
    commands = [shlex.split(line.replace("minilm", "toy-b").replace("oai-3-small", "toy-a")) for line in lines]
    for _, name, *arguments in commands:
        if name not in ("fit", "eval"):  # these embed texts: the slow test runs them
            code, _, err = ea(name, *arguments)
            assert code == 0, err
            assert name != "map" or f"to undo: {lines[-1]}\n" in err
    assert [name for _, name, *_ in commands] == ["check", "fit", "eval", "map", "unpublish"]
    assert list(read("qdrant:./qdrant#live")) == list(read("qdrant:./qdrant#docs"))


def test_check_reports_each_defect_with_its_rows(ea, registry, location):
    vectors = unit_rows(np.random.default_rng(0), 60, 8)
    vectors[7] = 0
    fill(f"{location}#docs", vectors, [None if i == 3 else f"text {i}" for i in range(60)])
    code, out, err = ea("check", f"{location}#docs")
    assert (code, err) == (0, "")
    assert "60 rows" in out
    facts = json.loads(ea("check", f"{location}#docs", "--json")[1])
    rows = {finding["check"]: (finding["rows"], finding["examples"]) for finding in facts["findings"]}
    assert rows["zero"] == (1, ["7"])
    assert rows["no text"] == (1, ["3"])
    assert ea("check", f"{location}#docs", "--strict")[0] == 1


@pytest.mark.slow
def test_a_fit_on_a_store_maps_to_an_unknown_model(ea, registry, minilm, tmp_path):
    need("sqlite-vec")
    url, x = f"sqlite-vec:{tmp_path / 'store'}#docs", np.asarray(minilm(TEXTS))
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(384, 384)))[0]
    fill(url, (x @ rotation).astype(np.float32), list(TEXTS))
    code, out, err = ea("fit", url, "--source", "minilm", "--target", "our-model", "--rows", "80")
    assert code == 0, err
    assert "80 of 100 rows of" in err
    assert "return the first result of the native query among their first ten" in err
    assert out.strip() == str(tmp_path / "data" / "ea_jax" / "registry" / "minilm--our-model--mine")
    arguments = ("eval", url, "--source", "minilm", "--target", "our-model", "--json")
    code, out, err = ea(*arguments, "--require", "recall@10>=0.5", "--require", "two_stages/recall@10>=0.5")
    assert code == 0, err
    report = json.loads(out)
    assert {"adapter", "native", "keep_source", "two_stages"} <= report["conditions"].keys()
    assert report["notes"][0].endswith("minilm--our-model--mine was fitted on other rows of this store.")
    code, _, err = ea(*arguments, "--require", "recall@10<=0.1")
    assert (code, err.splitlines()[-1]) == (1, "ea-jax: The requirement recall@10<=0.1 is not met.")


BAD = {
    "two stores": (["fit", "{url}", "{url}"], "Fit on one store, or on files."),
    "a store and a file": (["map", "{url}", "out.parquet"], "takes one store as its input and one as its output"),
    "no such collection": (["check", "{location}#dosc"], "docs"),
    "a check with another width": (["check", "{url}", "--source", "toy-a", "--target", "toy-b"], "maps to width 12"),
    "no texts": (["fit", "{url}"], "60 rows, but none has a text"),
    "another width": (["map", "{url}", "{location}#new", "--source", "minilm"], "holds vectors of width 8"),
    "a store and pairs": (["eval", "{url}", "--pairs", "pairs.parquet"], "Evaluate on a store, or on files."),
    "a bad requirement": (["eval", "{url}", "--require", "recall"], "is not like"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_command_is_one_sentence(ea, registry, tmp_path, case):
    need("sqlite-vec")
    location = f"sqlite-vec:{tmp_path / 'store'}"
    fill(f"{location}#docs", unit_rows(np.random.default_rng(0), 60, 8), [None] * 60)
    arguments, message = BAD[case]
    arguments = [text.format(url=f"{location}#docs", location=location) for text in arguments]
    if arguments[0] != "check":
        source = [] if "--source" in arguments else ["--source", "toy-a"]
        target = "oai-3-small" if "minilm" in arguments else "toy-b"
        arguments += [*source, "--target", target]
    code, out, err = ea(*arguments)
    assert (code, out) == (1, "")
    assert message in err.splitlines()[-1]
    assert os.listdir(tmp_path / "store" if (tmp_path / "store").is_dir() else tmp_path)
