from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.adapters.families import Linear
from ea_jax.errors import BadInput
from ea_jax.fitting.training.losses import LossWeights
from ea_jax.fitting.training.train import TrainingConfig, ValidationSet, train
from tests.conftest import toy_pairs

SHORT = TrainingConfig(steps=40, batch_size=64, learning_rate=1e-2, eval_every=10, ema_decay=0.8, patience=5)


@pytest.fixture(scope="module")
def toy():
    """The first arguments of `train`: a module, a start, pairs and a validation set."""
    x, y = toy_pairs(500)
    module = Linear(12, True)
    params = jax.tree.map(np.asarray, module.init(jax.random.key(0), jnp.asarray(x[:1]))["params"])
    return module, params, x[300:], y[300:], ValidationSet(x[:100], y[:100], y[100:300])


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def score_of(module, params, validation):
    """Mean reciprocal rank of the true neighbors, by sorting in float64."""
    output = np.asarray(module.apply({"params": params}, jnp.asarray(validation.x)), np.float64)
    true = (validation.y.astype(np.float64) @ validation.corpus.T).argmax(1)
    order = np.argsort(-(output @ validation.corpus.T), axis=1)
    return np.mean([1 / (1 + list(row).index(hit)) for row, hit in zip(order, true, strict=True)])


def test_training_improves_and_scores_agree_with_a_full_sort(toy):
    module, params, _, _, validation = toy
    result = train(*toy, SHORT)
    scores = dict(result.scores)
    assert list(scores) == [0, 10, 20, 30, 40]
    assert scores[0] == pytest.approx(score_of(module, params, validation), abs=1e-6)
    assert scores[result.best] == max(scores.values()) > scores[0] + 0.1
    assert scores[result.best] == pytest.approx(score_of(module, result.params, validation), abs=1e-6)


def test_a_step_without_averaging_is_adam(toy):
    module, params, x, y, validation = toy
    one = TrainingConfig(steps=1, batch_size=10_000, learning_rate=1e-3, warmup=0.0, ema_decay=0.0)
    result = train(module, params, x, y, validation, one)

    def loss(p):
        return one.losses.loss(module.apply({"params": p}, jnp.asarray(x)), y)

    # the first step of Adam is the rate times the sign of the gradient
    expected = jax.tree.map(lambda a, g: a - 1e-3 * np.sign(g), params, jax.grad(loss)(params))
    assert result.best == 1
    for a, b in zip(jax.tree.leaves(result.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_same_seed_gives_the_same_result(toy):
    first = train(*toy, SHORT, seed=1)
    assert_same(first.params, train(*toy, SHORT, seed=1).params)
    assert not np.array_equal(first.params["out"]["kernel"], train(*toy, SHORT, seed=2).params["out"]["kernel"])


def test_memory_maps_give_the_same_result_as_arrays(toy, tmp_path):
    module, params, x, y, validation = toy
    for name, rows in (("x", x), ("y", y)):
        np.save(tmp_path / f"{name}.npy", rows)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("x", "y")]
    assert_same(train(module, params, *mapped, validation, SHORT).params, train(*toy, SHORT).params)


def test_training_stops_early_and_returns_the_best_parameters(toy):
    wild = replace(SHORT, steps=200, learning_rate=0.3, eval_every=5, patience=3, ema_decay=0.0, warmup=0.5)
    result = train(*toy, wild)
    assert result.scores[-1][0] == result.best + 15 < 200
    longer = train(*toy, replace(wild, patience=1000))
    assert result.scores == longer.scores[: len(result.scores)]


def test_a_start_without_improvement_is_returned_unchanged(toy):
    module, _, x, y, validation = toy
    good = train(*toy, replace(SHORT, steps=200)).params
    result = train(module, good, x, y, validation, replace(SHORT, learning_rate=10.0, ema_decay=0.0))
    assert result.best == 0
    assert_same(result.params, good)


def test_a_non_finite_loss_stops_with_its_step(toy):
    module, params, x, y, validation = toy
    bad = y.copy()
    bad[0] = np.inf
    with pytest.raises(BadInput, match=r"stopped at step 1: the loss is not finite\. Lower the learning rate"):
        train(module, params, x, bad, validation, replace(SHORT, batch_size=1000))
    broken = {"out": {**params["out"], "bias": params["out"]["bias"] * np.nan}}
    with pytest.raises(BadInput, match=r"Outputs after step 0 are not finite"):
        train(module, broken, x, y, validation, SHORT)


def test_arguments_that_do_not_match_are_refused(toy):
    module, params, x, y, validation = toy
    for change, message in [
        ({"y": y[:-1]}, "x has 200 rows and y 199"),
        ({"x": x[:0], "y": y[:0]}, "x has no rows"),
        ({"validation": validation._replace(x=validation.x[:-1])}, "validation.x has 99 rows and validation.y 100"),
        (
            {"validation": validation._replace(corpus=validation.corpus[:, :-1])},
            "validation.corpus has width 11, but the pairs have width 12",
        ),
        (
            {"validation": validation._replace(corpus=validation.corpus * np.nan)},
            "validation.corpus has non-finite values",
        ),
        ({"seed": -1}, "seed is -1"),
    ]:
        arguments = {"params": params, "x": x, "y": y, "validation": validation, "training": SHORT, **change}
        with pytest.raises(BadInput, match=message):
            train.__wrapped__(module, **arguments)  # without the tests' type checker


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be 1 or more"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"warmup": 1.0}, "warmup is 1.0; it must be at least 0 and below 1"),
        ({"ema_decay": -0.1}, "ema_decay is -0.1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"losses": LossWeights(0.0, 0.0)}, "Both losses have weight 0"),
        ({"losses": LossWeights(temperature=0.0)}, "temperature is 0.0"),
    ],
)
def test_a_number_out_of_range_is_refused(change, message):
    with pytest.raises(BadInput, match=message):
        replace(SHORT, **change)


def test_the_progress_bar_goes_to_stderr(toy, capsys):
    train(*toy, SHORT, show_progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Training" in err
    assert "40/40" in err
