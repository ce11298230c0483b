"""`ea-jax eval` and `ea-jax compare` on files, good and bad."""

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
    """The toy registry with its adapter twice, under two flavors."""
    root = Path(shutil.copytree(toy_root, tmp_path_factory.mktemp("own") / "registry"))
    twin = Path(shutil.copytree(root / "toy-a--toy-b--small", root / "toy-a--toy-b--twin")) / "entry.toml"
    twin.write_text(twin.read_text().replace('flavor = "small"', 'flavor = "twin"'))
    return root


@pytest.fixture(autouse=True)
def toys(monkeypatch, registry):
    monkeypatch.setenv("EA_JAX_REGISTRY", str(registry))


def write(path, metadata=None, **columns):
    """A parquet file; two-dimensional columns are vectors."""
    told = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(c.ravel()), c.shape[1]) if isinstance(c, np.ndarray) else c
        for name, c in columns.items()
    }
    table = pa.table(told)
    parquet.write_table(table if metadata is None else table.replace_schema_metadata(metadata), path)
    return path


def ids(kind: str, n: int) -> list[str]:
    return [f"{kind}{i}" for i in range(n)]


@pytest.fixture
def judged(tmp_path):
    """Files of 60 queries and 240 corpus rows; query i is answered by row i, and half as well by row i + 60."""
    x, y = toy_pairs()
    write(tmp_path / "q.parquet", x=x[:QUERIES], y=y[:QUERIES], id=ids("q", QUERIES), text=ids("ask ", QUERIES))
    write(tmp_path / "c.parquet", x=x[QUERIES:], y=y[QUERIES:], id=ids("d", 240), text=ids("say ", 240))
    lines = [f"q{i} 0 d{row} {grade}" for i in range(QUERIES) for row, grade in ((i, 2), (i + 60, 1))]
    (tmp_path / "qrels.txt").write_text("\n".join(lines))
    return tmp_path


def flags(folder) -> list[str]:
    return ["--queries", str(folder / "q.parquet"), "--corpus", str(folder / "c.parquet")]


def test_queries_a_corpus_and_judgments_give_the_figures_of_trec_eval(ea, judged):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    code, out, err = ea(
        "eval", *TOY, *flags(judged), "--qrels", str(judged / "qrels.txt"), "--protocol", "qa", "--json"
    )
    assert (code, err) == (0, "")
    told = json.loads(out)
    x, y = toy_pairs()
    qrels = {f"q{i}": {f"d{i}": 2, f"d{i + 60}": 1} for i in range(QUERIES)}
    for name, side in {"native": y, "keep_source": x}.items():
        scores = side[:QUERIES].astype(float) @ side[QUERIES:].T.astype(float)
        run = {f"q{i}": {f"d{j}": scores[i, j] for j in np.argsort(-scores[i])[:100]} for i in range(QUERIES)}
        theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut", "recip_rank", "success", "recall"}).evaluate(run)
        names = {"ndcg_cut_10": "ndcg@10", "recip_rank": "mrr", "success_5": "found@5", "recall_10": "judged_recall@10"}
        for theirs_name, ours in names.items():
            wanted = np.mean([figures[theirs_name] for figures in theirs.values()])
            assert told["conditions"][name][ours]["value"] == pytest.approx(wanted)
    assert told["data"] | {"digest": ""} == {"queries": 60, "corpus": 240, "equal_rows": 0, "seed": 0, "digest": ""}
    assert told["neighbours"][0]["native"][0]["text"].startswith("say ")


def test_without_judgments_row_i_answers_query_i_and_the_report_says_so(ea, judged):
    x, y = toy_pairs(120)
    np.save(judged / "q.npy", x[:60])
    np.save(judged / "c.npy", y[60:])
    files = ("--queries", str(judged / "q.npy"), "--corpus", str(judged / "c.npy"))
    code, out, _ = ea("eval", *TOY, *files, "--protocol", "qa", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["notes"] == ["There are no judgments: corpus row i is taken for the answer of query i."]
    assert "keep_source" not in told["conditions"]
    assert "keeping the source model was not judged" in told["verdict"]
    (judged / "rows.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"{i}\t{i}\t1\n" for i in range(60)))
    again = ea("eval", *TOY, *files, "--qrels", str(judged / "rows.tsv"), "--protocol", "qa", "--json")[1]
    assert json.loads(again)["conditions"] == told["conditions"]


def test_pairs_give_a_table_and_a_page_that_agree(ea, tmp_path):
    x, y = toy_pairs()
    asks = np.arange(300) % 5 == 0
    pairs = write(tmp_path / "p.parquet", x=x, y=y, query=asks.tolist(), group=ids("g", 300))
    code, out, err = ea("eval", *TOY, "--pairs", str(pairs), "--flavor", "twin", "--report", str(tmp_path / "r.html"))
    assert (code, err) == (0, f"ea-jax: {tmp_path / 'r.html'} written\n")
    told = json.loads(re.search(r'id="report">(.*?)</script>', (tmp_path / "r.html").read_text()).group(1))
    assert told["verdict"] in " ".join(out.split())
    native, kept = (np.argsort(-(side[asks].astype(float) @ side[~asks].T), axis=1) for side in (y, x))
    wanted = np.mean([n[0] in k[:10] for n, k in zip(native, kept, strict=True)])
    assert told["conditions"]["keep_source"]["recall@10"]["value"] == pytest.approx(wanted)


def test_texts_are_embedded_by_both_models(ea, minilm, tmp_path):
    texts = [f"note {i} on {topic}" for i in range(25) for topic in ("tax", "tea")]
    (tmp_path / "t.txt").write_text("\n".join([*texts, texts[0]]))
    here, text = ("--source", "minilm", "--target", "wordllama"), str(tmp_path / "t.txt")
    code, out, _ = ea("eval", *here, "--texts", text, "--json")
    told = json.loads(out)
    assert (code, told["data"]["queries"], told["data"]["corpus"]) == (0, 10, 40)
    assert told["notes"][0] == "1 repeated texts were left out."
    columns = write(tmp_path / "q.parquet", text=texts[:20]), write(tmp_path / "c.parquet", text=texts[20:])
    files = ("--queries", str(columns[0]), "--corpus", str(columns[1]))
    code, out, _ = ea("eval", *here, *files, "--json")
    told = json.loads(out)
    assert (code, told["conditions"]["native"]["recall@1"]["value"]) == (0, 1)
    assert told["notes"][0] == "The column x of q.parquet was made here, of its column text."
    error = ea("eval", "--source", "minilm", "--target", "oai-3-small", "--texts", text)[2]
    assert "openai/text-embedding-3-small does not run here to embed the texts; give --pairs" in error


def test_named_adapters_and_reports_compare_alike_with_judgments_too(ea, judged, monkeypatch):
    files = [*flags(judged), "--qrels", str(judged / "qrels.txt")]
    code, out, _ = ea("compare", "toy-a--toy-b--small", "toy-a--toy-b--twin", *files, "--protocol", "qa", "--json")
    told = json.loads(out)
    assert code == 0
    assert {
        "adapter/ndcg@10",
        "adapter/mrr",
        "adapter/found@10",
        "adapter_store/recall@1",
        "confidence/ece",
    } <= told.keys()
    assert {d["verdict"] for d in told.values()} == {"no clear difference"}  # they are the same
    report = judged / "small.json"
    report.write_text(ea("eval", *TOY, "--flavor", "small", *files, "--protocol", "qa", "--json")[1])
    assert json.loads(ea("compare", str(report), str(report), "--json")[1]) == told
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = ea("compare", str(report), str(report))
    assert (code, out.count("no clear difference")) == (0, len(told))


def unequal(folder):
    x, y = toy_pairs()
    (folder / "pairs").mkdir()
    np.save(folder / "pairs" / "x.npy", x)
    np.save(folder / "pairs" / "y.npy", y[:299])
    return ["--pairs", str(folder / "pairs")]


def rewritten(name: str, **changed):
    """The judged files, with other columns in one of them; None leaves a column out."""

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
    told = {provenance.KEY: json.dumps({"encoder": {"model": "other", "fingerprint": "f" * 16}})}
    return ["--pairs", str(write(folder / "p.parquet", told, x=x, y=y))]


def small_corpus(folder):
    x, y = toy_pairs()
    asks = [i >= 9 for i in range(300)]
    return ["--pairs", str(write(folder / "p.parquet", x=x, y=y, query=asks))]


X = unit_rows(np.random.default_rng(1), 240, 8)
BAD = {
    "give one of --pairs, --texts, or both": lambda folder: [],
    "Give one of --pairs, --texts, or both --queries and --corpus": lambda folder: flags(folder)[:2],
    "--qrels goes with --queries and --corpus": lambda folder: ["--pairs", "p", "--qrels", "q"],
    "columns of unequal length, which must be row-aligned": unequal,
    "a corpus of 9 rows; it takes at least 1 and 10": small_corpus,
    "holds vectors of another encoder": of_another_encoder,
    "y.parquet is not a file": lambda folder: ["--pairs", str(folder / "y.parquet")],
    "is no file of vectors": lambda folder: ["--queries", str(folder / "qrels.txt"), *flags(folder)[2:]],
    "qrels.txt, line 1: the id 'q99' is not among the queries": qrels("q99 0 d1 1"),
    "qrels.txt, line 2: the id 'd999' is not among the corpus": qrels("q1 0 d1 1\nq1 0 d999 1"),
    "line 1: it is not `query row grade`": qrels("q1 d1"),
    "line 2: 'd1' has another grade for 'q1' above": qrels("q1 d1 1\nq1 d1 2"),
    "holds no judgments above 0": qrels("q1 d1 0\n"),
    "missing.txt cannot be read as judgments": lambda folder: [*flags(folder), "--qrels", str(folder / "missing.txt")],
    "c.parquet: the id 'd0' comes more than once": rewritten("c.parquet", id=["d0", *ids("d", 239)]),
    "c.parquet has no column y": rewritten("c.parquet", y=None),
    "corpus_y, row 0: the vector has length 2.0": rewritten("c.parquet", y=2 * toy_pairs()[1][60:]),
    "corpus_y has width 8, but toy/target has width 12": rewritten("c.parquet", y=X),
    "column text, row 1: the value is null": rewritten("q.parquet", text=["a", None, *ids("", 58)]),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_files_are_one_sentence_on_stderr(ea, judged, message):
    code, out, err = ea("eval", *TOY, *BAD[message](judged))
    assert (code, out) == (1, "")
    assert message.lower() in err.lower()
    assert err.count("\n") == 1


def test_a_protocol_without_what_it_needs_and_a_folder_that_is_not_there_are_refused(ea, judged):
    rewritten("q.parquet", y=None)(judged)
    assert "The protocol agreement needs native vectors of the queries" in ea("eval", *TOY, *flags(judged))[2]
    report = ("--report", str(judged / "nowhere" / "r.html"))
    assert "nowhere is not a folder" in ea("eval", *TOY, *flags(judged), *report)[2]
    assert "Named adapters are compared on --pairs" in ea("compare", "a", "b")[2]
    assert "qrels.json cannot be read as a report" in ea("compare", str(judged / "qrels.json"), "b.json")[2]


def test_vectors_of_another_encoder_are_taken_where_one_insists(ea, judged):
    code, out, _ = ea("eval", *TOY, *of_another_encoder(judged), "--assume-source", "--json")
    assert (code, json.loads(out)["data"]["queries"]) == (0, 60)
