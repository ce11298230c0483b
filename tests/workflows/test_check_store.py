"""Each defect added to a store without defects is reported with its rows, and nothing else is."""

import json

import numpy as np
import pyarrow as pa
import pytest

from ea_jax.integrations.stores import Description, Layout, Store, open_store
from ea_jax.integrations.stores.protocol import Chunk, Fields
from ea_jax.integrations.stores.rows import make_record_batch
from ea_jax.integrations.stores.urls import parse_store_url
from ea_jax.workflows.check_store import StoreReport, check_store, robust_outliers
from ea_jax.workflows.mixed_models import covariance_alignment, find_populations
from tests.integrations.stores.conftest import folder, make_rows, make_store, need  # noqa: F401 (a fixture)

N, D = 400, 64


class Rows(Store):
    """A store in memory, with arbitrary defects."""

    def __init__(self, vectors, texts=None) -> None:
        self.url = parse_store_url("sqlite-vec:memory#docs")
        self.vectors = list(vectors)
        self.texts = texts or [f"text {i}" for i in range(len(self.vectors))]
        self.widths: dict[int, int] = {}

    def describe(self) -> Description:
        fields = Fields("id", "text", "vector", None)
        n = len(self.vectors)
        return Description(str(self.url), n, D, self.widths, "dot", "integer", fields, ("vector",))

    def read(self, columns=(), batch_rows=1000, after=None):
        for k in range(0, len(self.vectors), 150):
            part = slice(k, k + 150)
            ids = [str(i) for i in range(k, k + len(self.vectors[part]))]
            yield Chunk(
                make_record_batch(("text", "vector"), ids, self.texts[part], self.vectors[part], where="here"), k
            )

    def write(self, rows) -> None: ...
    def create_sibling(self, name, width, metric=None) -> Store:
        raise NotImplementedError

    def publish(self, public): ...
    def unpublish(self, published) -> None: ...
    def close(self) -> None: ...


def model(seed: int, n: int = N, topics: int = 4) -> np.ndarray:
    """Make unit vectors like those of a model: a mean, topics, and a few axes with most of the variance."""
    axes = np.random.default_rng(seed)
    rng = np.random.default_rng([seed, n])
    scales = 1 / np.sqrt(1 + np.arange(D))
    basis = np.linalg.qr(axes.normal(size=(D, D)))[0]
    centers = axes.normal(size=(topics, D)) * scales
    latent = centers[rng.integers(topics, size=n)] + rng.normal(size=(n, D)) * scales
    rows = (latent + axes.normal(size=D) * 0.3) @ basis
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def findings(report: StoreReport) -> dict[str, tuple[str, int]]:
    return {finding.check: (finding.level, finding.rows) for finding in report.findings if finding.level != "ok"}


def test_a_store_without_defects_has_no_findings():
    report = check_store(Rows(model(0)))
    assert report.ok
    assert findings(report) == {}
    assert report.norms == pytest.approx((1, 1, 1), abs=1e-5)


def test_each_defect_is_reported_with_its_rows():
    vectors, texts = list(model(0)), [f"text {i}" for i in range(N)]
    vectors[3] = None
    vectors[5] = np.full(D, np.nan, np.float32)
    vectors[7] = np.zeros(D, np.float32)
    vectors[9] = vectors[9] * 3
    texts[11], texts[12] = None, "  "
    texts[20], vectors[20] = texts[21], vectors[21]  # one text, one vector
    texts[30] = texts[31]  # one text, two vectors
    report = check_store(Rows(vectors, texts))
    assert findings(report) == {
        "no vector": ("warning", 1),
        "not finite": ("error", 1),
        "zero": ("error", 1),
        "lengths": ("warning", 1),
        "no text": ("warning", 2),
        "duplicates": ("note", 2),
        "same text, other vector": ("warning", 1),
    }
    assert not report.ok
    examples = {finding.check: finding.examples for finding in report.findings}
    assert (examples["no vector"], examples["zero"], examples["no text"]) == (("3",), ("7",), ("11", "12"))
    assert examples["same text, other vector"] == ("31",)


def test_a_report_prints_as_a_table_and_as_json():
    report = check_store(Rows([*model(0)[:-1], None]))
    assert "warning  no vector" in str(report)
    assert "(399, ...)" in str(report)
    values = json.loads(json.dumps(report.to_json()))
    assert (values["ok"], values["store"]["rows"], values["store"]["fields"]["text"]) == (False, N, "text")


def test_vectors_without_unit_length_are_a_warning_for_dot_products():
    report = check_store(Rows(model(0) * 5))
    assert findings(report) == {"lengths": ("warning", N)}


def test_an_empty_text_field_is_named():
    report = check_store(Rows(model(0), [None] * N))
    assert any("Name the field: ?text=" in finding.message for finding in report.findings)


def test_mixed_widths_stop_the_check():
    store = Rows(model(0))
    store.widths = {32: 5}
    assert findings(check_store(store)) == {"widths": ("error", 5)}


def test_an_empty_store_is_an_error():
    assert findings(check_store(Rows([]))) == {"rows": ("error", 0)}


def test_vectors_that_do_not_fit_their_text_are_reported():
    vectors = model(0)
    vectors[[40, 41]] = vectors[[41, 40]]
    right = {f"text {i}": vector for i, vector in enumerate(model(0))}

    def score(texts, vectors):
        return np.array([float(right[text] @ v) for text, v in zip(texts, vectors, strict=True)]) - 0.01 * np.arange(
            len(texts)
        ) / len(texts)

    report = check_store(Rows(vectors), score=score)
    assert findings(report) == {"text and vector": ("warning", 2)}
    assert set(report.findings[-2].examples) == {"40", "41"}


def test_the_identified_model_is_reported():
    def identify(vectors, texts):
        return "toy" if vectors.shape == (N, D) and len(texts) == N else None

    assert check_store(Rows(model(0)), identify=identify).model == "toy"
    assert check_store(Rows(model(0, 100)), identify=identify).model is None


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_two_models_in_one_index_are_detected(fraction):
    second = int(N * fraction)
    vectors = np.concatenate([model(0, N - second), model(1, second)])
    order = np.random.default_rng(0).permutation(N)
    report = check_store(Rows(vectors[order]))
    assert findings(report) == {"mixed models": ("error", second)}
    populations = find_populations(vectors)
    assert populations is not None
    np.testing.assert_array_equal(
        populations.second if fraction < 0.5 else populations.second == populations.second[-1],
        np.arange(N) >= N - second,
    )


@pytest.mark.parametrize("seed", range(4))
def test_two_topics_of_one_model_are_not_two_models(seed):
    populations = find_populations(model(seed, 600, topics=2))
    assert populations is not None
    assert not populations.mixed
    assert populations.alignment > 0.1


def test_alignment_is_one_for_one_model_zero_for_two():
    x, y = model(0, 3000, topics=1), model(1, 3000, topics=1)
    assert covariance_alignment(x[:1500], x[1500:]) == pytest.approx(1, abs=0.02)
    assert covariance_alignment(x, y) == pytest.approx(0, abs=0.05)


def test_outliers_do_not_hide_each_other():
    scores = np.random.default_rng(0).normal(0.8, 0.05, size=1000)
    scores[:200] = 0.1
    assert robust_outliers(scores).nonzero()[0].tolist() == list(range(200))
    assert not robust_outliers(scores[200:]).any()


def test_a_real_store_is_checked(folder):  # noqa: F811
    need("sqlite-vec")
    rows = make_rows(60)
    texts = pa.array([None, *rows.column("text").to_pylist()[1:]], pa.string())
    with make_store(f"sqlite-vec:{folder}/docs.db#docs", rows.set_column(1, "text", texts)) as store:
        assert findings(check_store(store, batch_rows=7))["no text"] == ("warning", 1)
    with open_store(f"sqlite-vec:{folder}/docs.db#empty", Layout(3)) as store:
        assert not check_store(store).ok
