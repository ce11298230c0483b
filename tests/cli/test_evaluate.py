"""`ea-jax eval` and `ea-jax compare` on valid and invalid files."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ea_jax.data import provenance
from tests.conftest import toy_pairs, unit_rows

TOY = ("--source", "toy-a", "--target", "toy-b")
QUERIES = 60


@pytest.fixture(scope="module")
def registry(toy_root, tmp_path_factory):
    """The toy registry, with its adapter under two flavors."""
    root = Path(shutil.copytree(toy_root, tmp_path_factory.mktemp("own") / "registry"))
    twin = Path(shutil.copytree(root / "toy-a--toy-b--small", root / "toy-a--toy-b--twin")) / "entry.toml"
    twin.write_text(twin.read_text().replace('flavor = "small"', 'flavor = "twin"'))
    return root


@pytest.fixture(autouse=True)
def toys(monkeypatch, registry):
    monkeypatch.setenv("EA_JAX_REGISTRY", str(registry))


def write(path, metadata=None, **columns):
    """A parquet file; two-dimensional columns are vectors."""
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(c.ravel()), c.shape[1]) if isinstance(c, np.ndarray) else c
        for name, c in columns.items()
    }
    table = pa.table(arrays)
    parquet.write_table(table if metadata is None else table.replace_schema_metadata(metadata), path)
    return path


def ids(kind: str, n: int) -> list[str]:
    return [f"{kind}{i}" for i in range(n)]


@pytest.fixture
def labeled(tmp_path):
    """Files of 60 queries and 240 corpus rows; row i answers query i with grade 2, row i + 60 with grade 1."""
    x, y = toy_pairs()
    write(tmp_path / "q.parquet", x=x[:QUERIES], y=y[:QUERIES], id=ids("q", QUERIES), text=ids("question ", QUERIES))
    write(tmp_path / "c.parquet", x=x[QUERIES:], y=y[QUERIES:], id=ids("d", 240), text=ids("answer ", 240))
    lines = [f"q{i} 0 d{row} {grade}" for i in range(QUERIES) for row, grade in ((i, 2), (i + 60, 1))]
    (tmp_path / "qrels.txt").write_text("\n".join(lines))
    return tmp_path


def flags(folder) -> list[str]:
    return ["--queries", str(folder / "q.parquet"), "--corpus", str(folder / "c.parquet")]


def test_metrics_on_files_agree_with_trec_eval(ea, labeled):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    code, out, err = ea(
        "eval", *TOY, *flags(labeled), "--qrels", str(labeled / "qrels.txt"), "--protocol", "qa", "--json"
    )
    assert (code, err) == (0, "")
    report = json.loads(out)
    x, y = toy_pairs()
    qrels = {f"q{i}": {f"d{i}": 2, f"d{i + 60}": 1} for i in range(QUERIES)}
    for name, side in {"native": y, "keep_source": x}.items():
        scores = side[:QUERIES].astype(float) @ side[QUERIES:].T.astype(float)
        run = {f"q{i}": {f"d{j}": scores[i, j] for j in np.argsort(-scores[i])[:100]} for i in range(QUERIES)}
        theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut", "recip_rank", "success", "recall"}).evaluate(run)
        names = {
            "ndcg_cut_10": "ndcg@10",
            "recip_rank": "mrr",
            "success_5": "success@5",
            "recall_10": "relevant_recall@10",
        }
        for theirs_name, ours in names.items():
            expected = np.mean([metrics[theirs_name] for metrics in theirs.values()])
            assert report["conditions"][name][ours]["value"] == pytest.approx(expected)
    assert report["data"] | {"digest": ""} == {"queries": 60, "corpus": 240, "equal_rows": 0, "seed": 0, "digest": ""}
    assert report["neighbours"][0]["native"][0]["text"].startswith("answer ")


def test_without_judgments_row_i_answers_query_i(ea, labeled):
    x, y = toy_pairs(120)
    np.save(labeled / "q.npy", x[:60])
    np.save(labeled / "c.npy", y[60:])
    files = ("--queries", str(labeled / "q.npy"), "--corpus", str(labeled / "c.npy"))
    code, out, _ = ea("eval", *TOY, *files, "--protocol", "qa", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["notes"] == ["There are no judgments: corpus row i is taken as the answer to query i."]
    assert "keep_source" not in report["conditions"]
    assert "keeping the source model was not evaluated" in report["verdict"]
    (labeled / "rows.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"{i}\t{i}\t1\n" for i in range(60)))
    again = ea("eval", *TOY, *files, "--qrels", str(labeled / "rows.tsv"), "--protocol", "qa", "--json")[1]
    assert json.loads(again)["conditions"] == report["conditions"]


def test_the_table_and_the_page_of_pairs_agree(ea, tmp_path):
    x, y = toy_pairs()
    is_query = np.arange(300) % 5 == 0
    pairs = write(tmp_path / "p.parquet", x=x, y=y, query=is_query.tolist(), group=ids("g", 300))
    code, out, err = ea("eval", *TOY, "--pairs", str(pairs), "--flavor", "twin", "--report", str(tmp_path / "r.html"))
    assert (code, err) == (0, f"ea-jax: {tmp_path / 'r.html'} written\n")
    report = json.loads(re.search(r'id="report">(.*?)</script>', (tmp_path / "r.html").read_text()).group(1))
    assert report["verdict"] in " ".join(out.split())
    native, source = (np.argsort(-(side[is_query].astype(float) @ side[~is_query].T), axis=1) for side in (y, x))
    expected = np.mean([n[0] in k[:10] for n, k in zip(native, source, strict=True)])
    assert report["conditions"]["keep_source"]["recall@10"]["value"] == pytest.approx(expected)


def test_texts_are_embedded_by_both_models(ea, minilm, tmp_path):
    texts = [f"note {i} on {topic}" for i in range(25) for topic in ("tax", "tea")]
    (tmp_path / "t.txt").write_text("\n".join([*texts, texts[0]]))
    models, text = ("--source", "minilm", "--target", "wordllama"), str(tmp_path / "t.txt")
    code, out, _ = ea("eval", *models, "--texts", text, "--json")
    report = json.loads(out)
    assert (code, report["data"]["queries"], report["data"]["corpus"]) == (0, 10, 40)
    assert report["notes"][0] == "1 repeated texts were left out."
    assert "If the adapter was fitted on these rows, its scores are too high" in report["notes"][1]
    columns = write(tmp_path / "q.parquet", text=texts[:20]), write(tmp_path / "c.parquet", text=texts[20:])
    files = ("--queries", str(columns[0]), "--corpus", str(columns[1]))
    code, out, _ = ea("eval", *models, *files, "--json")
    report = json.loads(out)
    assert (code, report["conditions"]["native"]["recall@1"]["value"]) == (0, 1)
    assert report["notes"][0] == "The column x of q.parquet was computed from its column text."
    error = ea("eval", "--source", "minilm", "--target", "oai-3-small", "--texts", text)[2]
    assert (
        "openai/text-embedding-3-small does not run locally, so texts cannot be embedded with it. Give pairs instead"
        in error
    )


def test_named_adapters_and_their_reports_compare_alike(ea, labeled):
    files = [*flags(labeled), "--qrels", str(labeled / "qrels.txt")]
    code, out, _ = ea("compare", "toy-a--toy-b--small", "toy-a--toy-b--twin", *files, "--protocol", "qa", "--json")
    comparisons = json.loads(out)
    assert code == 0
    assert {
        "adapter/ndcg@10",
        "adapter/mrr",
        "adapter/success@10",
        "adapter_store/recall@1",
        "confidence/ece",
    } <= comparisons.keys()
    assert {d["verdict"] for d in comparisons.values()} == {"no clear difference"}  # both are the same adapter
    report = labeled / "small.json"
    report.write_text(ea("eval", *TOY, "--flavor", "small", *files, "--protocol", "qa", "--json")[1])
    assert json.loads(ea("compare", str(report), str(report), "--json")[1]) == comparisons
    code, out, _ = ea("compare", str(report), str(report))
    assert (code, out.count("no clear difference")) == (0, len(comparisons))


def test_a_pipe_of_80_columns_cuts_no_metric_name(ea, labeled, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    files = [*flags(labeled), "--qrels", str(labeled / "qrels.txt")]
    out = ea("eval", *TOY, "--flavor", "small", *files, "--protocol", "qa")[1]
    for name in (
        "adapter (store) to native corpus",
        "relevant recall@10",
        "rank correlation",
        "true neighbor is native",
    ):
        assert name in out
    report = labeled / "small.json"
    report.write_text(ea("eval", *TOY, "--flavor", "small", *files, "--json")[1])
    names = json.loads(ea("compare", str(report), str(report), "--json")[1]).keys()
    lines = ea("compare", str(report), str(report))[1].splitlines()
    assert "adapter_to_adapter/relevant_recall@10" in names
    assert [line.split()[0] for line in lines[1:]] == list(names)


def unequal_columns(folder):
    x, y = toy_pairs()
    (folder / "pairs").mkdir()
    np.save(folder / "pairs" / "x.npy", x)
    np.save(folder / "pairs" / "y.npy", y[:299])
    return ["--pairs", str(folder / "pairs")]


def rewritten(name: str, **changed):
    """The labeled files with changed columns in one of them; None removes a column."""

    def make(folder):
        table = parquet.read_table(folder / name)
        columns = {n: table.column(n).combine_chunks() for n in table.schema.names} | changed
        write(folder / name, **{n: c for n, c in columns.items() if c is not None})
        return [*flags(folder), "--qrels", str(folder / "qrels.txt")]

    return make


def qrels(text: str):
    def make(folder):
        (folder / "qrels.txt").write_text(text)
        return [*flags(folder), "--qrels", str(folder / "qrels.txt")]

    return make


def of_another_encoder(folder):
    x, y = toy_pairs()
    metadata = {provenance.KEY: json.dumps({"encoder": {"model": "other", "fingerprint": "f" * 16}})}
    return ["--pairs", str(write(folder / "p.parquet", metadata, x=x, y=y))]


def small_corpus(folder):
    x, y = toy_pairs()
    is_query = [i >= 9 for i in range(300)]
    return ["--pairs", str(write(folder / "p.parquet", x=x, y=y, query=is_query))]


X = unit_rows(np.random.default_rng(1), 240, 8)
BAD = {
    "give one of pairs, texts, or both": lambda folder: [],
    "The options are --pairs, --texts, --queries, --corpus and --qrels": lambda folder: [],
    "Give one of pairs, texts, or both queries and corpus": lambda folder: flags(folder)[:2],
    "Judgments refer to ids of queries and corpus rows": lambda folder: ["--pairs", "p", "--qrels", "q"],
    "columns of unequal length, which must be row-aligned": unequal_columns,
    "a corpus of 9 rows; at least 1 and 10 are needed": small_corpus,
    "holds vectors of another encoder": of_another_encoder,
    "y.parquet is not a file": lambda folder: ["--pairs", str(folder / "y.parquet")],
    "has no column x (vectors of toy/source), and toy/source does not run locally": lambda folder: [
        "--queries",
        str(folder / "qrels.txt"),
        *flags(folder)[2:],
    ],
    "qrels.txt, line 1: the id 'q99' is not among the queries": qrels("q99 0 d1 1"),
    "qrels.txt, line 2: the id 'd999' is not among the corpus": qrels("q1 0 d1 1\nq1 0 d999 1"),
    "line 1: expected `query row grade`": qrels("q1 d1"),
    "line 2: 'd1' has another grade for 'q1' above": qrels("q1 d1 1\nq1 d1 2"),
    "has no judgments with a grade above 0": qrels("q1 d1 0\n"),
    "missing.txt cannot be read as judgments": lambda folder: [*flags(folder), "--qrels", str(folder / "missing.txt")],
    "c.parquet: the id 'd0' occurs more than once": rewritten("c.parquet", id=["d0", *ids("d", 239)]),
    "c.parquet has no column y": rewritten("c.parquet", y=None),
    "column y, row 0: the vector has length 2.0": rewritten("c.parquet", y=2 * toy_pairs()[1][60:]),
    "column y, row 0: the vector has width 8, but toy/target has width 12": rewritten("c.parquet", y=X),
    "column text, row 1: the value is null": rewritten("q.parquet", text=["a", None, *ids("", 58)]),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_files_give_one_line_on_stderr(ea, labeled, message):
    code, out, err = ea("eval", *TOY, *BAD[message](labeled))
    assert (code, out) == (1, "")
    assert message.lower() in err.lower()
    assert err.count("\n") == 1


def test_missing_vectors_and_missing_folders_are_refused(ea, labeled):
    rewritten("q.parquet", y=None)(labeled)
    assert "The protocol agreement needs native vectors of the queries" in ea("eval", *TOY, *flags(labeled))[2]
    report = ("--report", str(labeled / "nowhere" / "r.html"))
    assert "nowhere is not a folder" in ea("eval", *TOY, *flags(labeled), *report)[2]
    assert "Named adapters are compared on --pairs" in ea("compare", "a", "b")[2]
    assert "`ea-jax eval --json` writes a report" in ea("compare", str(labeled / "qrels.json"), "b.json")[2]
    assert "qrels.json cannot be read as a report" in ea("compare", str(labeled / "qrels.json"), "b.json")[2]


def test_assume_source_accepts_vectors_of_another_encoder(ea, labeled):
    code, out, _ = ea("eval", *TOY, *of_another_encoder(labeled), "--assume-source", "--json")
    assert (code, json.loads(out)["data"]["queries"]) == (0, 60)
