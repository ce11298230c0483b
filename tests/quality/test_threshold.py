import math

import numpy as np
import pytest

from ea_jax.adapters.spec import Spec
from ea_jax.errors import BadInput
from ea_jax.quality.schema import CALIBRATION_COLUMNS
from ea_jax.quality.scores import Quality
from ea_jax.quality.threshold import threshold_for


def quality_of(confidence: np.ndarray, hits: np.ndarray, column: str = "confidence") -> Quality:
    scores = np.zeros((len(hits), len(CALIBRATION_COLUMNS)), np.float32)
    scores[:, CALIBRATION_COLUMNS.index(column)] = confidence
    spec = Spec("linear", "a", "b", 2, 2)
    return Quality(spec, {"calibration": {"scores": scores, "found": hits.astype(np.int8)}})


def calibrated(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences that rank well but are too high."""
    confidence = rng.random(n)
    return confidence, rng.random(n) < 0.6 + 0.4 * confidence**0.5


def uninformative(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences without information, of queries slightly below the target."""
    return rng.random(n), rng.random(n) < 0.925


def overconfident(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences whose highest values are wrong: the strictest sequence fails at once."""
    confidence = rng.random(n)
    return confidence, rng.random(n) < np.where(confidence > 0.85, 0.8, 0.99)


@pytest.mark.parametrize("kind", [calibrated, uninformative, overconfident])
@pytest.mark.parametrize("n", [300, 1000])
def test_the_guarantee_fails_no_more_often_than_allowed(kind, n):
    rng = np.random.default_rng(0)
    confidence, hits = kind(rng, 200_000)
    failures = 0
    for _ in range(300):
        threshold = threshold_for(quality_of(*kind(rng, n)), target=0.93, error=0.1)
        inside = confidence >= threshold.confidence
        failures += bool(inside.any() and hits[inside].mean() < 0.93)
    assert failures / 300 < 0.15  # .1, and three standard errors


def tail(misses: int, k: int, target: float) -> float:
    """Probability of at most this many misses among k if the miss rate is `1 - target`."""
    return sum(math.comb(k, i) * (1 - target) ** i * target ** (k - i) for i in range(misses + 1))


def by_loops(confidence, hits, target, error):
    """The last threshold that passes in either sequence, by loops; the one with the larger coverage."""
    order = np.argsort(-confidence, kind="stable")
    n, best = len(order), (np.inf, 0.0)
    least = math.ceil(math.log(error / 2) / math.log(target))
    for start in (n // 10, n // 2):
        last = (np.inf, 0.0)
        for k in np.unique(np.linspace(min(max(least, start), n), n, 50).astype(int)):
            if tail(int(np.sum(~hits[order[:k]])), int(k), target) > error / 2:
                break
            last = confidence[order[k - 1]], k / n
        best = max(best, last, key=lambda pair: pair[1])
    return best


@pytest.mark.parametrize("kind", [calibrated, uninformative, overconfident])
@pytest.mark.parametrize("seed", range(3))
def test_the_threshold_agrees_with_loops_over_both_sequences(kind, seed):
    confidence, hits = kind(np.random.default_rng(seed), 500)
    confidence = confidence.astype(np.float32)
    threshold = threshold_for(quality_of(confidence, hits), target=0.9, error=0.1)
    expected = by_loops(confidence, hits, 0.9, 0.1)
    assert (threshold.confidence, threshold.coverage) == pytest.approx(expected)


def test_the_second_sequence_passes_where_the_first_fails():
    confidence = np.linspace(1, 0, 1000).astype(np.float32)
    hits = np.ones(1000, bool)
    hits[:100:4] = False  # a quarter of the most confident tenth
    threshold = threshold_for(quality_of(confidence, hits), target=0.9)
    assert threshold.coverage == 1
    assert threshold.recall == pytest.approx(0.975)


def test_queries_of_equal_confidence_are_accepted_together():
    confidence = np.round(np.random.default_rng(0).random(500), 1).astype(np.float32)
    threshold = threshold_for(quality_of(confidence, np.ones(500, bool)), target=0.9)
    assert threshold.coverage == np.mean(confidence >= threshold.confidence)


def test_a_threshold_after_the_search_reads_the_confidence_after_it():
    confidence, hits = calibrated(np.random.default_rng(1), 2000)
    quality = quality_of(confidence, hits, "confidence_after_search")
    before, after = (threshold_for(quality, target=0.9, after_search=late) for late in (False, True))
    assert after == threshold_for(quality_of(confidence, hits), target=0.9)
    assert before.coverage != after.coverage


def test_coverage_and_recall_are_those_of_the_calibration_pairs():
    confidence, hits = calibrated(np.random.default_rng(1), 2000)
    threshold = threshold_for(quality_of(confidence, hits), target=0.9)
    inside = confidence.astype(np.float32) >= np.float32(threshold.confidence)
    assert threshold.coverage == pytest.approx(inside.mean())
    assert threshold.recall == pytest.approx(hits[inside].mean())
    assert threshold.recall > 0.9


def test_everything_is_accepted_where_every_query_hits():
    rng = np.random.default_rng(2)
    threshold = threshold_for(quality_of(rng.random(500), np.ones(500, bool)))
    assert threshold.coverage == 1
    assert threshold.recall == 1


@pytest.mark.parametrize(("n", "rate"), [(500, 0.5), (20, 1.0)], ids=["too bad", "too few"])
def test_an_unreachable_target_gives_an_infinite_threshold(n, rate):
    rng = np.random.default_rng(3)
    assert threshold_for(quality_of(rng.random(n), rng.random(n) < rate)) == (np.inf, 0.0, 0.0)


@pytest.mark.parametrize("wrong", [{"target": 95.0}, {"target": 0.0}, {"error": 1.0}])
def test_target_and_error_are_between_zero_and_one(wrong):
    with pytest.raises(BadInput, match="must be between 0 and 1"):
        threshold_for(quality_of(np.ones(3), np.ones(3, bool)), **wrong)


def test_an_imported_adapter_has_no_calibration_pairs():
    with pytest.raises(BadInput, match="An imported adapter carries no pairs"):
        threshold_for(Quality(Spec("linear", "a", "b", 2, 2), {}))
