import io
import json
import re
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from ea_jax.data.qrels import read_qrels
from ea_jax.errors import BadInput
from ea_jax.evaluation import EvaluationSet, evaluate
from ea_jax.evaluation.bootstrap import estimate_mean, mean_difference
from ea_jax.evaluation.calibration import auroc, spearman
from ea_jax.evaluation.compare import compare_reports, read_report
from ea_jax.evaluation.ranking import correlations, relevance_metrics
from ea_jax.evaluation.tables import make_tables
from ea_jax.loading import load_quality
from ea_jax.registry.model_card import ROWS, format_metrics
from ea_jax.retrieval.held_out import HeldOut, held_out_metrics
from ea_jax.retrieval.search import search
from tests.conftest import toy_pairs, unit_rows

NASTY = '<script>alert("x")</script> & $a_b$'


@pytest.fixture(scope="module")
def evaluation_set():
    x, y = toy_pairs()
    groups = [NASTY if i % 3 else "plain" for i in range(60)]
    texts = [f"{NASTY} {'long ' * (i % 7)}{i}" for i in range(300)]
    return EvaluationSet(x[:60], y[60:], y[:60], x[60:], texts[:60], texts[60:], groups)


@pytest.fixture(scope="module")
def report(adapt, evaluation_set, toy_root):
    return evaluate(adapt, evaluation_set, quality=load_quality("toy-a", "toy-b", root=toy_root))


def test_recall_and_overlap_agree_with_full_sorts_in_float64(report, adapt, evaluation_set):
    out = np.asarray(adapt(adapt.params, evaluation_set.x), np.float64)
    native = np.argsort(-(evaluation_set.y.astype(np.float64) @ evaluation_set.corpus_y.T), axis=1)
    for name, (a, b) in {
        "adapter": (out, evaluation_set.corpus_y),
        "keep_source": (evaluation_set.x, evaluation_set.corpus_x),
    }.items():
        order = np.argsort(-(a.astype(np.float64) @ b.T), axis=1)
        metrics = report.conditions[name]
        for k in (1, 5, 10):
            hit = [native[i, 0] in order[i, :k] for i in range(60)]
            shared = [len(set(native[i, :k]) & set(order[i, :k])) / k for i in range(60)]
            assert metrics[f"recall@{k}"].value == pytest.approx(np.mean(hit))
            assert metrics[f"overlap@{k}"].value == pytest.approx(np.mean(shared))
    assert report.cosine.mean.value == pytest.approx(np.sum(out * evaluation_set.y, axis=1).mean(), abs=1e-6)
    assert report.conditions["native"]["recall@1"].value == 1
    assert "naive_swap" not in report.conditions  # the widths differ


def test_every_estimate_lies_in_its_interval(report):
    estimates = list(estimates_in(report.as_dict()))
    assert len(estimates) > 150
    for path, (value, low, high) in estimates:
        assert (value, low, high) == (None,) * 3 or low - 1e-9 <= value <= high + 1e-9 or "ece" in path


def estimates_in(part, path=""):
    """Every estimate of a JSON value, with its path. Calibration errors of resamples exceed that of the whole."""
    if isinstance(part, dict) and part.keys() == {"value", "low", "high"}:
        yield path, tuple(part.values())
    elif isinstance(part, dict | list):
        for key, inner in part.items() if isinstance(part, dict) else enumerate(part):
            yield from estimates_in(inner, f"{path}/{key}")


def test_every_metric_of_a_report_has_an_interval(report):
    """The other numbers are counts, thresholds, coordinates and values per query."""
    facts = "confidence|share|queries|corpus|equal_rows|seed|row|counts|edges|native|adapted|explained"
    without_interval = re.compile(rf"({facts})(/\d+)*$|^/per_query/")

    def numbers(part, path=""):
        if isinstance(part, dict) and part.keys() != {"value", "low", "high"}:
            return [n for key, inner in part.items() for n in numbers(inner, f"{path}/{key}")]
        if isinstance(part, list):
            return [n for i, inner in enumerate(part) for n in numbers(inner, f"{path}/{i}")]
        return [path] if isinstance(part, int | float) and not isinstance(part, bool) else []

    assert [path for path in numbers(report.as_dict()) if not without_interval.search(path)] == []


def test_relevance_metrics_agree_with_trec_eval():
    pytrec_eval = pytest.importorskip("pytrec_eval")
    rng = np.random.default_rng(3)
    queries, corpus = unit_rows(rng, 40, 6), unit_rows(rng, 300, 6)
    hits = search(queries, corpus, 100)
    relevant = {q: {int(r): float(rng.integers(0, 4)) for r in rng.permutation(300)[:30]} for q in range(40)}
    values = relevance_metrics(hits.row, relevant, np.arange(300))
    qrels = {f"q{q}": {f"d{r}": int(g) for r, g in grades.items()} for q, grades in relevant.items()}
    run = {f"q{q}": {f"d{r}": float(s) for r, s in zip(hits.row[q], hits.score[q], strict=True)} for q in range(40)}
    names = {
        "ndcg_cut_10": "ndcg@10",
        "recip_rank": "mrr",
        "recall_5": "relevant_recall@5",
        "recall_10": "relevant_recall@10",
        "success_10": "success@10",
    }
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut", "recip_rank", "recall", "success"}).evaluate(run)
    for name, ours in names.items():
        expected = [theirs[f"q{q}"][name] for q in range(40)]
        np.testing.assert_allclose(values[ours], expected, atol=1e-9)


def test_correlations_and_auroc_agree_with_scipy_and_scikit_learn():
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 9, (2, 5, 80)).astype(float)  # with ties
    for row in range(5):
        assert correlations(a, b)[row] == pytest.approx(spearmanr(a[row], b[row])[0])
        assert spearman(a[row], b[row]) == pytest.approx(spearmanr(a[row], b[row])[0])
        assert auroc(a[row], b[row] > 6) == pytest.approx(roc_auc_score(b[row] > 6, a[row]))


def test_intervals_cover_the_true_mean_as_often_as_claimed():
    rng = np.random.default_rng(0)
    covered = [
        f.low <= 0.7 <= f.high for f in (estimate_mean((rng.random(150) < 0.7).astype(float)) for _ in range(200))
    ]
    assert (
        0.90 <= np.mean(covered) <= 0.99
    )  # 95 %, slightly less with 150 values; three standard deviations of 200 samples


def test_a_paired_bootstrap_detects_real_differences_only():
    rng = np.random.default_rng(0)
    a = rng.random(400)
    assert mean_difference(a, a + 0.1 + 0.2 * rng.standard_normal(400)).p_value < 0.01
    assert mean_difference(a, a + 0.2 * np.r_[np.ones(200), -np.ones(200)]).p_value > 0.5


def test_equal_rows_count_as_hits_and_are_noted(adapt, evaluation_set):
    doubled = replace(
        evaluation_set,
        corpus_y=np.concatenate([evaluation_set.corpus_y, evaluation_set.corpus_y]),
        corpus_x=np.concatenate([evaluation_set.corpus_x, evaluation_set.corpus_x]),
        corpus_text=None,
    )
    report = evaluate(adapt, doubled)
    assert report.data.equal_rows == 240
    assert "240 corpus rows have the same native vector as an earlier row" in report.notes[0]
    assert report.conditions["native"]["recall@1"].value == 1


def test_perfect_adapted_rows_displace_no_native_rows(adapt, evaluation_set):
    corpus = np.asarray(adapt(adapt.params, evaluation_set.corpus_x))
    queries = np.asarray(adapt(adapt.params, evaluation_set.x))
    mixed = evaluate(adapt, replace(evaluation_set, corpus_y=corpus, y=queries)).mixed
    assert mixed["adapted queries"]["recall@10"].value == 1
    low, high = mixed["adapted queries"]["adapted_share"][1:]
    assert low < 0.55
    assert high > 0.45


BAD = {
    "y has 59 rows, but x has 60": lambda t: {"y": t.y[:59]},
    "corpus_x has 200 rows, but corpus_y has 240": lambda t: {"corpus_x": t.corpus_x[:200]},
    "corpus_y, row 3: the vector has length 2.000": lambda t: {
        "corpus_y": np.where(np.arange(240)[:, None] == 3, 2 * t.corpus_y, t.corpus_y)
    },
    "a corpus of 4 rows; at least": lambda t: {"corpus_y": t.corpus_y[:4], "corpus_x": None, "corpus_text": None},
    "needs native vectors of the queries": lambda t: {"y": None},
    "judgments of query 0 are out of range": lambda t: {"relevant": {0: {900: 1.0}}},
    "y has width 8": lambda t: {"y": t.x},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_names_the_column_and_the_fault(adapt, evaluation_set, message):
    with pytest.raises(BadInput, match=message):
        evaluate(adapt, replace(evaluation_set, **BAD[message](evaluation_set)))


def test_judgments_are_read_in_trec_and_beir_format(tmp_path):
    file = tmp_path / "qrels.tsv"
    file.write_text("query-id\tcorpus-id\tscore\na\tone\t2\n")
    assert read_qrels(file, ["a"], ["zero", "one"]) == {0: {1: 2.0}}
    file.write_text("a 0 one 1\nb 0 two 1\n")
    with pytest.raises(BadInput, match=r"line 2: the id 'two' is not among the corpus"):
        read_qrels(file, ["a", "b"], ["zero", "one"])


def test_thresholds_report_the_queries_that_reach_a_confidence(adapt, evaluation_set, toy_root):
    quality = load_quality("toy-a", "toy-b", root=toy_root)
    qa = replace(evaluation_set, relevant={i: {i: 1.0} for i in range(60)})
    report = evaluate(adapt, qa, quality=quality, protocol="qa")
    unfiltered = report.thresholds[0]
    assert unfiltered.share.value == 1
    for k in (1, 5, 10):
        assert unfiltered.figures["adapter"][f"success@{k}"] == report.conditions["adapter"][f"success@{k}"]
    ours, theirs = (report.conditions[name]["success@10"].value for name in ("adapter", "native"))
    assert unfiltered.of_native.value == pytest.approx(ours / theirs)
    confidence = np.asarray(quality(quality.params, evaluation_set.x).confidence)
    success = report.per_query["adapter"]["success@10"]
    for row in report.thresholds:
        assert row.queries == (confidence >= row.confidence).sum()
        if row.queries:
            expected = success[confidence >= row.confidence].mean()
            assert row.figures["adapter"]["success@10"].value == pytest.approx(expected)
    with pytest.raises(BadInput, match="The protocol qa needs judgments"):
        evaluate(adapt, evaluation_set, protocol="qa")


def test_routing_lies_between_random_and_oracle(report):
    recall = report.per_query["adapter"]["recall@10"]
    for point in report.routing:
        served = round(point.share * 60)
        best = 1 - max(0, served - recall.sum()) / 60  # native queries score 1, so the oracle serves misses last
        assert point.oracle.value == pytest.approx(best)
        assert point.random.value == pytest.approx(point.share * recall.mean() + 1 - point.share)
        assert point.score.value <= point.oracle.value + 1e-9
        assert point.random.low <= point.random.value <= point.random.high
    ends = [report.routing[i] for i in (0, -1)]
    assert [end.score.value for end in ends] == pytest.approx([1, recall.mean()])


def test_quality_metrics_agree_with_their_definitions(report):
    from sklearn.metrics import roc_auc_score

    confidence, outcome, expected, lower = (
        report.per_query["forecast"][name]
        for name in ("confidence", "outcome", "expected_cosine", "expected_cosine_lower")
    )
    cosine = report.per_query["vectors"]["cosine"]
    bins = np.array_split(np.argsort(confidence, kind="stable"), 10)
    metrics = report.confidence
    error = sum(abs(confidence[b].mean() - outcome[b].mean()) * len(b) for b in bins) / 60
    assert metrics["ece"].value == pytest.approx(error)
    assert metrics["coverage"].value == pytest.approx((cosine >= lower).mean())
    worst = cosine <= np.quantile(cosine, 0.1)
    assert metrics["auroc_worst_tenth"].value == pytest.approx(roc_auc_score(worst, -expected))
    order = np.argsort(-confidence, kind="stable")
    area = np.mean([1 - outcome[order[:n]].mean() for n in range(1, 61)])
    assert metrics["aurc"].value == pytest.approx(area)
    for level, estimate in report.cosine.quantiles.items():
        assert estimate.value == pytest.approx(np.quantile(cosine, float(level)))


def test_cards_and_tables_show_the_metrics_of_evaluate(report, adapt, evaluation_set):
    test = HeldOut(evaluation_set.x, evaluation_set.y, evaluation_set.corpus_x, evaluation_set.corpus_y)
    out = np.asarray(adapt(adapt.params, evaluation_set.x))
    metrics = held_out_metrics(test, {"store": out, "query": out})
    for row, condition in {"query": "adapter", "keep_source": "keep_source"}.items():
        for k in (1, 5, 10):
            assert metrics[row][f"recall@{k}"] == round(report.conditions[condition][f"recall@{k}"].value, 4)
    assert metrics["store"]["cosine"] == round(report.cosine.mean.value, 4)
    recalls = " / ".join(f"{report.conditions['adapter'][f'recall@{k}'].value:.3f}" for k in (1, 5, 10))
    assert f"| {report.cosine.mean.value:.3f} | {recalls} |" in format_metrics({"mine": metrics}, ROWS)


def test_a_report_is_printed_and_compares_with_itself(report, tmp_path):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.table())
    assert report.verdict in " ".join(console.export_text().split())
    saved = tmp_path / "report.json"
    saved.write_text(report.to_json())
    same = compare_reports(read_report(saved), report)
    assert {"adapter/recall@10", "adapter_store/recall@1", "vectors/cosine", "confidence/ece"} <= same.keys()
    assert all(d.value == 0 and d.verdict == "no clear difference" for d in same.values())
    with pytest.raises(BadInput, match="differ in their data"):
        compare_reports(report, replace(report, data=report.data._replace(digest="of other vectors")))


def test_a_terminal_of_80_columns_cuts_no_metric_name(adapt, evaluation_set, toy_root):
    quality = load_quality("toy-a", "toy-b", root=toy_root)
    long_word = f"https://example.org/{'a' * 90}"
    labeled = replace(evaluation_set, relevant={i: {i: 1.0} for i in range(60)}, group=[long_word] * 60)
    report = evaluate(adapt, labeled, quality=quality, protocol="qa")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.table())
    words = console.export_text().split()
    expected = [word for table in make_tables(report) for name in table.header for word in name.split()]
    assert {"success@10", "recall@10", "correlation"} <= set(expected) <= set(words)


def test_reports_of_an_earlier_version_are_refused(report, tmp_path):
    saved, content = tmp_path / "report.json", report.as_dict()
    content["per_query"]["forecast"]["found"] = content["per_query"]["forecast"].pop("outcome")
    saved.write_text(json.dumps(content))
    with pytest.raises(BadInput, match="earlier version"):
        read_report(saved)
    saved.write_text('{"per_query": []}')
    with pytest.raises(BadInput, match="is not the JSON of an evaluation report"):
        read_report(saved)


def test_a_comparison_detects_the_better_adapter(report, adapt, evaluation_set, toy_root):
    worse = replace(adapt, params=jax.tree.map(lambda a: a + 0.2 * a.std(), adapt.params))
    quality = load_quality("toy-a", "toy-b", root=toy_root)
    comparisons = compare_reports(report, evaluate(worse, evaluation_set, quality=quality))
    cosine = comparisons["vectors/cosine"]
    assert cosine.verdict == "A is better"
    assert cosine.value == pytest.approx(cosine.b - cosine.a)
    assert cosine.low <= cosine.value <= cosine.high < 0
    assert comparisons["confidence/coverage"].verdict == "A is larger"


def at_path(part, path: str):
    for key in path.split("/"):
        part = part[int(key)] if isinstance(part, list) else part[key]
    return part


CHROMIUM = next((p for p in ("/usr/bin/chromium", "/usr/bin/google-chrome") if Path(p).exists()), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]  # no network requests of its own


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("matplotlib")
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def html(report, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "r.html"
    report.save_html(file)
    return file


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_numbers_of_the_embedded_json(report, browser, html, scheme, width):
    page = browser.new_page(viewport={"width": width, "height": 740}, color_scheme=scheme)
    messages, requests = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(html.as_uri())
    embedded = json.loads(page.text_content("#report"))
    cells = page.eval_on_selector_all("[data-figure]", "all => all.map(e => [e.dataset.figure, e.innerText])")
    assert page.inner_text("#verdict") == report.verdict
    assert page.locator("figure svg").count() == 6
    assert page.locator("details .sides > div").count() == 16  # native and adapted, of eight queries
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.querySelectorAll('svg text')].every(e => e.getBoundingClientRect().height > 10)")
    texts, shapes = page.evaluate(CONTRAST)
    page.close()
    assert messages == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert embedded == {k: v for k, v in json.loads(report.to_json()).items() if k != "per_query"}
    assert len(cells) > 90  # the number depends on the slices by confidence
    for path, text in cells:
        value, low, high = at_path(embedded, path).values()
        assert text.split() == ([] if value is None else f"{value:.3f} ({low:.3f}, {high:.3f})".split())
    assert len(texts) > 200
    assert min(texts) >= 4.5  # WCAG AA
    assert len(shapes) > 100
    assert min(shapes) >= 3  # WCAG AA, for graphics


CONTRAST = """() => {
  for (const e of document.querySelectorAll('details')) e.open = true
  const parts = c => { const v = c.match(/[\\d.]+/g).map(Number); return v.length > 3 ? v : [...v.slice(0, 3), 1] }
  const light = c => { const v = c.slice(0, 3).map(n => n / 255)
    .map(n => n <= .03928 ? n / 12.92 : ((n + .055) / 1.055) ** 2.4); return .2126*v[0] + .7152*v[1] + .0722*v[2] }
  const over = (c, alpha, under) => c.slice(0, 3).map((n, i) => n * alpha + under[i] * (1 - alpha))
  const ratio = (a, b) => { [a, b] = [light(a), light(b)]; return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) }
  const behind = e => { for (; e; e = e.parentElement) { const c = parts(getComputedStyle(e).backgroundColor)
    if (c[3] > 0) return c } return [255, 255, 255, 1] }
  const texts = [...document.querySelectorAll('h1,h2,p,li,td,th,b,small,summary,mark,figcaption,.tiles span,svg text')]
    .map(e => { const s = getComputedStyle(e); return ratio(parts(e.closest('svg') ? s.fill : s.color), behind(e)) })
  const seen = e => { const s = getComputedStyle(e), under = behind(e.closest('figure'))
    return Math.max(0, ...[[s.fill, s.fillOpacity], [s.stroke, s.strokeOpacity]].filter(([c]) => c !== 'none')
      .map(([c, alpha]) => ratio(over(parts(c), parts(c)[3] * alpha * s.opacity, under), under))) }
  const visible = e => !e.closest('defs,clipPath') && (e.tagName !== 'path' || e.getTotalLength() > 0)
  const band = e => e.closest('[id$="band"]')  // its edges are separate, solid lines
  const shapes = [...document.querySelectorAll('svg path, svg use, svg rect, svg line')]
    .filter(e => visible(e) && !band(e) && getComputedStyle(e).opacity > 0).map(seen).filter(r => r > 0)
  return [texts, shapes] }"""
