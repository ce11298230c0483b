import numpy as np
import pytest

from ea_jax.errors import BadInput
from ea_jax.quality import Quality
from ea_jax.quality_store import SCORED
from ea_jax.spec import Spec
from ea_jax.thresholds import threshold_for


def quality_of(confidence: np.ndarray, found: np.ndarray) -> Quality:
    scores = np.zeros((len(found), len(SCORED)), np.float32)
    scores[:, SCORED.index("confidence")] = confidence
    spec = Spec("linear", "a", "b", 2, 2)
    return Quality(spec, {"calibration": {"scores": scores, "found": found.astype(np.int8)}})


def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences that say too much: what is found is rarer than they say."""
    said = rng.random(n)
    return said, rng.random(n) < 0.6 + 0.4 * said**0.5


def test_the_promise_is_broken_in_at_most_the_share_of_draws_that_was_allowed():
    rng = np.random.default_rng(0)
    said, found = draw(rng, 200_000)
    broken, kept = 0, []
    for _ in range(300):
        threshold = threshold_for(quality_of(*draw(rng, 1000)), target=0.93, error=0.1)
        inside = said >= threshold.confidence
        kept.append(inside.mean())
        broken += bool(inside.any() and found[inside].mean() < 0.93)
    assert broken / 300 < 0.15  # .1, and three standard errors
    assert np.mean(kept) > 0.2


def test_what_it_reports_is_what_the_calibration_pairs_say():
    said, found = draw(np.random.default_rng(1), 2000)
    threshold = threshold_for(quality_of(said, found), target=0.9)
    inside = said.astype(np.float32) >= np.float32(threshold.confidence)
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
