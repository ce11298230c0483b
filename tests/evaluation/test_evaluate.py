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
from ea_jax.evaluation import Trial, evaluate
from ea_jax.evaluation.bootstrap import difference, mean_of
from ea_jax.evaluation.calibration import auroc, spearman
from ea_jax.evaluation.compare import compared
from ea_jax.evaluation.ranking import correlations, judged
from ea_jax.loading import load_quality
from ea_jax.registry.model_card import ROWS, format_metrics
from ea_jax.retrieval.held_out import HeldOut, held_out_metrics
from ea_jax.retrieval.search import search
from tests.conftest import toy_pairs, unit_rows

NASTY = '<script>alert("x")</script> & $a_b$'


@pytest.fixture(scope="module")
def trial():
    x, y = toy_pairs()
    groups = [NASTY if i % 3 else "plain" for i in range(60)]
    texts = [f"{NASTY} {'long ' * (i % 7)}{i}" for i in range(300)]
    return Trial(x[:60], y[60:], y[:60], x[60:], texts[:60], texts[60:], groups)


@pytest.fixture(scope="module")
def report(adapt, trial, toy_root):
    return evaluate(adapt, trial, quality=load_quality("toy-a", "toy-b", root=toy_root))


def test_recall_and_overlap_agree_with_full_sorts_in_double_precision(report, adapt, trial):
    out = np.asarray(adapt(adapt.params, trial.x), np.float64)
    native = np.argsort(-(trial.y.astype(np.float64) @ trial.corpus_y.T), axis=1)
    for name, (a, b) in {"adapter": (out, trial.corpus_y), "keep_source": (trial.x, trial.corpus_x)}.items():
        order = np.argsort(-(a.astype(np.float64) @ b.T), axis=1)
        figures = report.conditions[name]
        for k in (1, 5, 10):
            hit = [native[i, 0] in order[i, :k] for i in range(60)]
            shared = [len(set(native[i, :k]) & set(order[i, :k])) / k for i in range(60)]
            assert figures[f"recall@{k}"].value == pytest.approx(np.mean(hit))
            assert figures[f"overlap@{k}"].value == pytest.approx(np.mean(shared))
    assert report.cosine["mean"].value == pytest.approx(np.sum(out * trial.y, axis=1).mean(), abs=1e-6)
    assert report.conditions["native"]["recall@1"].value == 1
    assert "naive_swap" not in report.conditions  # the widths differ


def test_every_figure_lies_in_its_interval(report):
    figures = list(figures_in(report.as_dict()))
    assert len(figures) > 150
    for path, (value, low, high) in figures:
        assert (value, low, high) == (None,) * 3 or low - 1e-9 <= value <= high + 1e-9 or "ece" in path


def figures_in(told, path=""):
    """Every figure of plain values, with where it is. Calibration errors of draws are larger than that of the whole."""
    if isinstance(told, dict) and told.keys() == {"value", "low", "high"}:
        yield path, tuple(told.values())
    elif isinstance(told, dict | list):
        for key, part in told.items() if isinstance(told, dict) else enumerate(told):
            yield from figures_in(part, f"{path}/{key}")


def test_no_number_of_a_report_is_without_its_interval(report):
    """But for those that say where an interval is, how many queries it is over, or what is drawn."""
    facts = "confidence|said|kept|queries|corpus|equal_rows|seed|row|counts|edges|native|adapted|explained"
    lone = re.compile(rf"({facts})(/\d+)*$|^/per_query/")

    def numbers(told, path=""):
        if isinstance(told, dict) and told.keys() != {"value", "low", "high"}:
            return [n for key, part in told.items() for n in numbers(part, f"{path}/{key}")]
        if isinstance(told, list):
            return [n for i, part in enumerate(told) for n in numbers(part, f"{path}/{i}")]
        return [path] if isinstance(told, int | float) and not isinstance(told, bool) else []

    assert [path for path in numbers(report.as_dict()) if not lone.search(path)] == []


def test_figures_with_judgments_agree_with_trec_eval():
    pytrec_eval = pytest.importorskip("pytrec_eval")
    rng = np.random.default_rng(3)
    queries, corpus = unit_rows(rng, 40, 6), unit_rows(rng, 300, 6)
    found = search(queries, corpus, 100)
    relevant = {q: {int(r): float(rng.integers(0, 4)) for r in rng.permutation(300)[:30]} for q in range(40)}
    values = judged(found.row, relevant, np.arange(300))
    qrels = {f"q{q}": {f"d{r}": int(g) for r, g in grades.items()} for q, grades in relevant.items()}
    run = {f"q{q}": {f"d{r}": float(s) for r, s in zip(found.row[q], found.score[q], strict=True)} for q in range(40)}
    names = {
        "ndcg_cut_10": "ndcg@10",
        "recip_rank": "mrr",
        "recall_5": "judged_recall@5",
        "recall_10": "judged_recall@10",
        "success_10": "found@10",
    }
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut", "recip_rank", "recall", "success"}).evaluate(run)
    for name, ours in names.items():
        wanted = [theirs[f"q{q}"][name] for q in range(40)]
        np.testing.assert_allclose(values[ours], wanted, atol=1e-9)


def test_correlations_and_auroc_agree_with_scipy_and_scikit_learn():
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 9, (2, 5, 80)).astype(float)  # with ties
    for row in range(5):
        assert correlations(a, b)[row] == pytest.approx(spearmanr(a[row], b[row])[0])
        assert spearman(a[row], b[row]) == pytest.approx(spearmanr(a[row], b[row])[0])
        assert auroc(a[row], b[row] > 6) == pytest.approx(roc_auc_score(b[row] > 6, a[row]))


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = [f.low <= 0.7 <= f.high for f in (mean_of((rng.random(150) < 0.7).astype(float)) for _ in range(200))]
    assert 0.90 <= np.mean(covered) <= 0.99  # 95 %, less a little for 150 draws, give or take three deviations of 200


def test_a_paired_difference_is_seen_where_it_is_and_not_where_it_is_not():
    rng = np.random.default_rng(0)
    a = rng.random(400)
    assert difference(a, a + 0.1 + 0.2 * rng.standard_normal(400)).p_value < 0.01
    assert difference(a, a + 0.2 * np.r_[np.ones(200), -np.ones(200)]).p_value > 0.5


def test_an_equal_row_counts_as_a_hit_and_the_report_says_so(adapt, trial):
    doubled = replace(
        trial,
        corpus_y=np.concatenate([trial.corpus_y, trial.corpus_y]),
        corpus_x=np.concatenate([trial.corpus_x, trial.corpus_x]),
        corpus_text=None,
    )
    report = evaluate(adapt, doubled)
    assert report.data["equal_rows"] == 240
    assert "240 corpus rows have the native vector of an earlier row" in report.notes[0]
    assert report.conditions["native"]["recall@1"].value == 1


def test_a_mixed_index_of_perfect_vectors_crowds_nothing_out(adapt, trial):
    corpus = np.asarray(adapt(adapt.params, trial.corpus_x))
    asked = np.asarray(adapt(adapt.params, trial.x))
    mixed = evaluate(adapt, replace(trial, corpus_y=corpus, y=asked)).mixed
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
    "a corpus of 4 rows; it takes": lambda t: {"corpus_y": t.corpus_y[:4], "corpus_x": None, "corpus_text": None},
    "needs native vectors of the queries": lambda t: {"y": None},
    "name a row that is not there": lambda t: {"relevant": {0: {900: 1.0}}},
    "y has width 8": lambda t: {"y": t.x},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_sentence_that_says_where(adapt, trial, message):
    with pytest.raises(BadInput, match=message):
        evaluate(adapt, replace(trial, **BAD[message](trial)))


def test_judgments_are_read_in_both_forms_and_unknown_ids_are_named(tmp_path):
    file = tmp_path / "qrels.tsv"
    file.write_text("query-id\tcorpus-id\tscore\na\tone\t2\n")
    assert read_qrels(file, ["a"], ["zero", "one"]) == {0: {1: 2.0}}
    file.write_text("a 0 one 1\nb 0 two 1\n")
    with pytest.raises(BadInput, match=r"line 2: the id 'two' is not among the corpus"):
        read_qrels(file, ["a", "b"], ["zero", "one"])


def test_answers_are_judged_filtered_and_unfiltered_side_by_side(adapt, trial, toy_root):
    quality = load_quality("toy-a", "toy-b", root=toy_root)
    qa = replace(trial, relevant={i: {i: 1.0} for i in range(60)})
    report = evaluate(adapt, qa, quality=quality, protocol="qa")
    everything = report.thresholds[0]
    assert everything["kept"].value == 1
    for k in (1, 5, 10):
        assert everything["figures"]["adapter"][f"found@{k}"] == report.conditions["adapter"][f"found@{k}"]
    ours, theirs = (report.conditions[name]["found@10"].value for name in ("adapter", "native"))
    assert everything["of_native"].value == pytest.approx(ours / theirs)
    said = np.asarray(quality(quality.params, trial.x).confidence)
    found = np.asarray(report.per_query["adapter"]["found@10"])
    for row in report.thresholds:
        assert row["queries"] == (said >= row["confidence"]).sum()
        if row["queries"]:
            wanted = found[said >= row["confidence"]].mean()
            assert row["figures"]["adapter"]["found@10"].value == pytest.approx(wanted)
    with pytest.raises(BadInput, match="The protocol qa needs judgments"):
        evaluate(adapt, trial, protocol="qa")


def test_nothing_routes_better_than_the_oracle_nor_worse_on_average_than_at_random(report):
    found = np.asarray(report.per_query["adapter"]["recall@10"])
    for point in report.routing:
        kept = round(point["kept"] * 60)
        best = 1 - max(0, kept - found.sum()) / 60  # native queries find all, so misses are kept last
        assert point["oracle"].value == pytest.approx(best)
        assert point["random"].value == pytest.approx(point["kept"] * found.mean() + 1 - point["kept"])
        assert point["recall@10"].value <= point["oracle"].value + 1e-9
        assert point["random"].low <= point["random"].value <= point["random"].high
    ends = [report.routing[i] for i in (0, -1)]
    assert [end["recall@10"].value for end in ends] == pytest.approx([1, found.mean()])


def test_the_figures_of_the_confidence_agree_with_their_definitions(report, trial):
    from sklearn.metrics import roc_auc_score

    said, came, forecast, lower = (
        np.asarray(report.per_query["forecast"][name])
        for name in ("confidence", "found", "expected_cosine", "expected_cosine_lower")
    )
    cosine = np.asarray(report.per_query["vectors"]["cosine"])
    bins = np.array_split(np.argsort(said, kind="stable"), 10)
    told = report.confidence
    assert told["ece"].value == pytest.approx(sum(abs(said[b].mean() - came[b].mean()) * len(b) for b in bins) / 60)
    assert told["coverage"].value == pytest.approx((cosine >= lower).mean())
    worst = cosine <= np.quantile(cosine, 0.1)
    assert told["auroc_worst_tenth"].value == pytest.approx(roc_auc_score(worst, -forecast))
    kept = np.argsort(-said, kind="stable")
    assert told["aurc"].value == pytest.approx(np.mean([1 - came[kept[:n]].mean() for n in range(1, 61)]))
    for q, figure in report.cosine["quantiles"].items():
        assert figure.value == pytest.approx(np.quantile(cosine, float(q)))


def test_a_card_and_a_readme_table_show_the_figures_of_evaluate(report, adapt, trial):
    test = HeldOut(trial.x, trial.y, trial.corpus_x, trial.corpus_y)
    out = np.asarray(adapt(adapt.params, trial.x))
    figures = held_out_metrics(test, {"store": out, "query": out})
    for row, condition in {"query": "adapter", "keep_source": "keep_source"}.items():
        for k in (1, 5, 10):
            assert figures[row][f"recall@{k}"] == round(report.conditions[condition][f"recall@{k}"].value, 4)
    assert figures["store"]["cosine"] == round(report.cosine["mean"].value, 4)
    shown = " / ".join(f"{report.conditions['adapter'][f'recall@{k}'].value:.3f}" for k in (1, 5, 10))
    assert f"| {report.cosine['mean'].value:.3f} | {shown} |" in format_metrics({"mine": figures}, ROWS)


def test_the_table_is_printed_and_a_report_compares_with_itself(report):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.table())
    assert report.verdict in " ".join(console.export_text().split())
    told = json.loads(report.to_json())
    same = compared(told, told)
    assert {"adapter/recall@10", "adapter_store/recall@1", "vectors/cosine", "confidence/ece"} <= same.keys()
    assert all(d["value"] == 0 and d["verdict"] == "no clear difference" for d in same.values())
    with pytest.raises(BadInput, match="differ in their data"):
        compared(told, told | {"data": told["data"] | {"digest": "of other vectors"}})


def test_a_comparison_sees_which_of_two_adapters_is_better(report, adapt, trial, toy_root):
    worse = replace(adapt, params=jax.tree.map(lambda a: a + 0.2 * a.std(), adapt.params))
    quality = load_quality("toy-a", "toy-b", root=toy_root)
    told = compared(report.as_dict(), evaluate(worse, trial, quality=quality).as_dict())
    cosine = told["vectors/cosine"]
    assert cosine["verdict"] == "A is better"
    assert cosine["value"] == pytest.approx(cosine["b"] - cosine["a"])
    assert cosine["low"] <= cosine["value"] <= cosine["high"] < 0
    assert told["confidence/coverage"]["verdict"] == "A is larger"


def figure(told, path: str):
    for key in path.split("/"):
        told = told[int(key)] if isinstance(told, list) else told[key]
    return told


CHROMIUM = next((p for p in ("/usr/bin/chromium", "/usr/bin/google-chrome") if Path(p).exists()), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]  # a browser that keeps to the page


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("matplotlib")
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium is on this machine: apt-get install chromium")
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
def test_the_page_in_a_browser_shows_the_figures_of_its_json(report, browser, html, scheme, width):
    page = browser.new_page(viewport={"width": width, "height": 740}, color_scheme=scheme)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(html.as_uri())
    told = json.loads(page.text_content("#report"))
    cells = page.eval_on_selector_all("[data-figure]", "all => all.map(e => [e.dataset.figure, e.innerText])")
    assert page.inner_text("#verdict") == report.verdict
    assert page.locator("figure svg").count() == 6
    assert page.locator("details .sides > div").count() == 16  # native and adapted, of eight queries
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.querySelectorAll('svg text')].every(e => e.getBoundingClientRect().height > 10)")
    texts, shapes = page.evaluate(CONTRAST)
    page.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert told == {k: v for k, v in json.loads(report.to_json()).items() if k != "per_query"}
    assert len(cells) > 90  # how many depends on the slices that the confidence makes
    for path, text in cells:
        value, low, high = figure(told, path).values()
        assert text.split() == ([] if value is None else f"{value:.3f} ({low:.3f}, {high:.3f})".split())
    assert len(texts) > 200
    assert min(texts) >= 4.5  # WCAG AA
    assert len(shapes) > 100
    assert min(shapes) >= 3  # WCAG AA, what is not text


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
  const drawn = e => !e.closest('defs,clipPath') && (e.tagName !== 'path' || e.getTotalLength() > 0)
  const band = e => e.closest('[id$="band"]')  // its edges are drawn, too
  const shapes = [...document.querySelectorAll('svg path, svg use, svg rect, svg line')]
    .filter(e => drawn(e) && !band(e) && getComputedStyle(e).opacity > 0).map(seen).filter(r => r > 0)
  return [texts, shapes] }"""
