import math

import numpy as np
import pytest

from ea_jax.adapters.spec import Spec
from ea_jax.errors import BadInput
from ea_jax.quality.schema import CALIBRATION_COLUMNS
from ea_jax.quality.scores import Quality
from ea_jax.quality.threshold import threshold_for


def quality_of(confidence: np.ndarray, found: np.ndarray, column: str = "confidence") -> Quality:
    scores = np.zeros((len(found), len(CALIBRATION_COLUMNS)), np.float32)
    scores[:, CALIBRATION_COLUMNS.index(column)] = confidence
    spec = Spec("linear", "a", "b", 2, 2)
    return Quality(spec, {"calibration": {"scores": scores, "found": found.astype(np.int8)}})


def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences that rank well and are too high."""
    confidence = rng.random(n)
    return confidence, rng.random(n) < 0.6 + 0.4 * confidence**0.5


def draw_flat(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences that rank nothing, of queries that are just too bad."""
    return rng.random(n), rng.random(n) < 0.925


def draw_bad_top(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences whose highest are wrong: the strictest sequence fails at once."""
    confidence = rng.random(n)
    return confidence, rng.random(n) < np.where(confidence > 0.85, 0.8, 0.99)


@pytest.mark.parametrize("kind", [draw, draw_flat, draw_bad_top])
@pytest.mark.parametrize("n", [300, 1000])
def test_the_promise_is_broken_no_more_often_than_allowed(kind, n):
    rng = np.random.default_rng(0)
    confidence, found = kind(rng, 200_000)
    broken = 0
    for _ in range(300):
        threshold = threshold_for(quality_of(*kind(rng, n)), target=0.93, error=0.1)
        inside = confidence >= threshold.confidence
        broken += bool(inside.any() and found[inside].mean() < 0.93)
    assert broken / 300 < 0.15  # .1, and three standard errors


def tail(misses: int, k: int, target: float) -> float:
    """Probability of so few misses among k if one in `1 - target` missed."""
    return sum(math.comb(k, i) * (1 - target) ** i * target ** (k - i) for i in range(misses + 1))


def by_hand(confidence, found, target, error):
    """The last threshold that passes in each sequence, counted by loops; the one that keeps more."""
    order = np.argsort(-confidence, kind="stable")
    n, best = len(order), (np.inf, 0.0)
    least = math.ceil(math.log(error / 2) / math.log(target))
    for start in (n // 10, n // 2):
        last = (np.inf, 0.0)
        for k in np.unique(np.linspace(min(max(least, start), n), n, 50).astype(int)):
            if tail(int(np.sum(~found[order[:k]])), int(k), target) > error / 2:
                break
            last = confidence[order[k - 1]], k / n
        best = max(best, last, key=lambda pair: pair[1])
    return best


@pytest.mark.parametrize("kind", [draw, draw_flat, draw_bad_top])
@pytest.mark.parametrize("seed", range(3))
def test_the_threshold_is_that_of_two_sequences_by_hand(kind, seed):
    confidence, found = kind(np.random.default_rng(seed), 500)
    confidence = confidence.astype(np.float32)
    threshold = threshold_for(quality_of(confidence, found), target=0.9, error=0.1)
    wanted = by_hand(confidence, found, 0.9, 0.1)
    assert (threshold.confidence, threshold.kept) == pytest.approx(wanted)


def test_the_second_sequence_keeps_queries_where_the_first_ones_fail():
    confidence = np.linspace(1, 0, 1000).astype(np.float32)
    found = np.ones(1000, bool)
    found[:100:4] = False  # a quarter of the most confident tenth
    threshold = threshold_for(quality_of(confidence, found), target=0.9)
    assert threshold.kept == 1
    assert threshold.found == pytest.approx(0.975)


def test_queries_of_one_confidence_are_kept_together():
    confidence = np.round(np.random.default_rng(0).random(500), 1).astype(np.float32)
    threshold = threshold_for(quality_of(confidence, np.ones(500, bool)), target=0.9)
    assert threshold.kept == np.mean(confidence >= threshold.confidence)


def test_a_threshold_after_the_search_reads_the_confidence_after_it():
    confidence, found = draw(np.random.default_rng(1), 2000)
    quality = quality_of(confidence, found, "confidence_after_search")
    before, after = (threshold_for(quality, target=0.9, after_search=late) for late in (False, True))
    assert after == threshold_for(quality_of(confidence, found), target=0.9)
    assert before.kept != after.kept


def test_what_it_reports_is_counted_on_the_calibration_pairs():
    confidence, found = draw(np.random.default_rng(1), 2000)
    threshold = threshold_for(quality_of(confidence, found), target=0.9)
    inside = confidence.astype(np.float32) >= np.float32(threshold.confidence)
    assert threshold.kept == pytest.approx(inside.mean())
    assert threshold.found == pytest.approx(found[inside].mean())
    assert threshold.found > 0.9


def test_everything_is_kept_where_everything_is_found():
    rng = np.random.default_rng(2)
    threshold = threshold_for(quality_of(rng.random(500), np.ones(500, bool)))
    assert threshold.kept == 1
    assert threshold.found == 1


@pytest.mark.parametrize(("n", "rate"), [(500, 0.5), (20, 1.0)], ids=["too bad", "too few"])
def test_no_threshold_is_an_infinite_one(n, rate):
    rng = np.random.default_rng(3)
    assert threshold_for(quality_of(rng.random(n), rng.random(n) < rate)) == (np.inf, 0.0, 0.0)


@pytest.mark.parametrize("wrong", [{"target": 95.0}, {"target": 0.0}, {"error": 1.0}])
def test_a_share_is_between_nought_and_one(wrong):
    with pytest.raises(BadInput, match="must be between 0 and 1"):
        threshold_for(quality_of(np.ones(3), np.ones(3, bool)), **wrong)


def test_an_imported_adapter_has_no_pairs_to_set_a_threshold_by():
    with pytest.raises(BadInput, match="An imported adapter carries no pairs"):
        threshold_for(Quality(Spec("linear", "a", "b", 2, 2), {}))
