import numpy as np
import pytest

from ea_jax.retrieval.held_out import HeldOut, held_out_metrics
from tests.conftest import unit_rows


def test_held_out_metrics_agree_with_a_plain_loop():
    rng = np.random.default_rng(0)
    test = HeldOut(*(unit_rows(rng, n, d) for n, d in [(40, 5), (40, 6), (90, 5), (90, 6)]))
    out = unit_rows(rng, 40, 6)
    metrics = held_out_metrics(test, {"map": 3 * out, "native": test.y})
    hit = (test.y.astype(np.float64) @ test.corpus_y.T).argmax(1)

    def recall(queries, corpus, k):
        order = np.argsort(-(queries.astype(np.float64) @ corpus.T), axis=1)[:, :k]
        return np.mean([h in row for h, row in zip(hit, order, strict=True)])

    assert metrics["map"]["cosine"] == pytest.approx(np.sum(out * test.y, axis=1).mean(), abs=1e-4)
    for k in (1, 5, 10):
        assert metrics["map"][f"recall@{k}"] == pytest.approx(recall(out, test.corpus_y, k), abs=1e-4)
        assert metrics["keep_source"][f"recall@{k}"] == pytest.approx(recall(test.x, test.corpus_x, k), abs=1e-4)
        assert metrics["native"][f"recall@{k}"] == 1
    assert "cosine" not in metrics["keep_source"]
