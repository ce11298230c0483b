from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ea_jax.fitting.finish import bench, linear_query
from ea_jax.fitting.fit import _cut
from ea_jax.fitting.heads import POLISH
from ea_jax.fitting.search import Folds, choose_linear
from ea_jax.fitting.splits import FOLDS
from ea_jax.metrics import rank_of, reciprocal_rank, top_hit
from tests.conftest import unit_rows


@pytest.fixture(scope="module")
def noisy():
    """Folds of 2,400 pairs too noisy for their width, what judges them, and 2,400 new pairs."""
    rng = np.random.default_rng(3)
    x = unit_rows(rng, 4800, 240)
    y = (x @ rng.normal(size=(240, 48)) + 0.7 * rng.normal(size=(4800, 48))) / np.sqrt(np.arange(1, 49))
    y = (y / np.linalg.norm(y, axis=1, keepdims=True)).astype(np.float32)
    folds, n = _cut(x[:2400], y[:2400], np.arange(2400) % FOLDS, 0), np.arange(2400)
    on = bench(folds, n, 0, grouped=False, network=False, landmarks=2400, corpus_size=2400, seed=0)
    return folds, on, x[2400:], y[2400:]


def trained_query(folds, on, steps=40):
    return linear_query(choose_linear(folds), folds, on, replace(POLISH, steps=steps, batch=512), 0, False)


def rank_in(corpus, outputs, native):
    return float(reciprocal_rank(rank_of(outputs.astype(np.float32), corpus, top_hit(native, corpus))))


def test_a_trained_layer_is_judged_as_rows_to_come_will_find_it_and_has_seen_all_rows(noisy):
    folds, on, x, y = noisy
    layer, outputs, told = trained_query(folds, on)
    assert told["polish"]["steps"] == 40
    expected = rank_in(on.corpus, outputs, on.native)
    assert expected == pytest.approx(rank_in(on.corpus, layer.apply(x), y), abs=0.015)
    assert rank_in(on.corpus, layer.apply(on.asked), on.native) > expected + 0.03


def test_a_layer_for_a_corpus_of_other_rows_knows_its_pairs_less_by_heart(noisy):
    folds, on, _, _ = noisy
    layers = [trained_query(folds, on._replace(unfitted=share), 160)[0] for share in (0.9, 0.0)]
    mixed, known = (rank_in(on.corpus, layer.apply(on.asked), on.native) for layer in layers)
    assert mixed < known - 0.001


@pytest.mark.parametrize(("pairs", "width", "penalty"), [(1000, 1536, 1), (2000, 1536, 0.768), (50_000, 1536, 0.1)])
def test_what_a_query_layer_is_trained_from_is_held_back_where_pairs_are_few_for_their_width(pairs, width, penalty):
    assert Folds.round.fget(SimpleNamespace(x=np.zeros((pairs, width)))) == ("ridge", penalty)
