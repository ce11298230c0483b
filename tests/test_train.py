import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax import train as training_module
from ea_jax.errors import BadInput
from ea_jax.losses import Terms
from ea_jax.mlp import mlp_start
from ea_jax.models import Linear
from ea_jax.train import MLP_TRAINING, Held, Training, train
from tests.conftest import toy_pairs, unit_rows

SHORT = Training(steps=40, batch=64, every=10, average=0.9, mixup=0.2, terms=Terms(1.0, 0.5, 0.2))


def bent_pairs(n=900):
    """Pairs whose target no linear map of the source gives."""
    rng = np.random.default_rng(0)
    x = unit_rows(rng, n, 8)
    y = np.tanh(4 * x @ rng.normal(size=(8, 16))) @ rng.normal(size=(16, 12)) / 4
    return x, (y / np.linalg.norm(y, axis=1, keepdims=True)).astype(np.float32)


def parts(x, y, queries=100, corpus=200):
    """Pairs to train on, and held-out ones."""
    q, c = slice(0, queries), slice(queries, queries + corpus)
    return x[queries + corpus :], y[queries + corpus :], Held(x[q], y[q], y[c])


@pytest.fixture(scope="module")
def toy():
    """What `train` takes first: a module, a start, pairs and held-out rows."""
    x, y, held = parts(*toy_pairs(500))
    return (*mlp_start(x, y, width=16, depth=1), x, y, held)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("judge", ["reciprocal_rank", "cosine"])
def test_a_network_beats_its_linear_start_where_the_map_is_bent(judge):
    x, y, held = parts(*bent_pairs())
    module, params = mlp_start(x, y, width=64, depth=1)
    found = train(module, params, x, y, held, Training(steps=300, batch=128, rate=5e-3, judge=judge))
    scores = dict(found.judged)
    assert scores[found.best] == max(scores.values())
    assert 1 - scores[found.best] < 0.8 * (1 - scores[0])


def test_the_cosine_judgment_is_numpys(toy):
    module, params, _, _, held = toy
    found = train(*toy, replace(SHORT, steps=10, judge="cosine"))
    for step, p in ((0, params), (10, found.params)):
        output = np.asarray(module.apply({"params": p}, jnp.asarray(held.x)), np.float64)
        np.testing.assert_allclose(dict(found.judged)[step], (output * held.y).sum(1).mean(), rtol=1e-6)


def test_a_seed_gives_one_result_with_a_folder_or_without(toy, tmp_path):
    first = train(*toy, SHORT, seed=1)
    assert_same(first.params, train(*toy, SHORT, seed=1, folder=tmp_path / "new" / "run").params)
    assert not np.array_equal(first.params["in"]["kernel"], train(*toy, SHORT, seed=2).params["in"]["kernel"])


def test_memory_maps_give_what_arrays_give(toy, tmp_path):
    module, params, x, y, held = toy
    for name, rows in (("x", x), ("y", y)):
        np.save(tmp_path / f"{name}.npy", rows)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("x", "y")]
    assert_same(train(module, params, *mapped, held, SHORT).params, train(*toy, SHORT).params)


def test_the_best_judged_step_comes_back_and_later_ones_are_cut(toy):
    wild = replace(SHORT, steps=200, rate=0.3, every=5, patience=3, average=0.0, warmup=0.5)
    found = train(*toy, wild)
    steps = [step for step, _ in found.judged]
    assert found.steps == steps[-1] == found.best + 15 < 200
    cut = train(*toy, replace(wild, patience=1000))
    assert found.judged == cut.judged[: len(found.judged)]
    module, _, _, _, held = toy
    cosine = train(*toy, replace(wild, judge="cosine"))
    output = module.apply({"params": cosine.params}, jnp.asarray(held.x))
    np.testing.assert_allclose(max(s for _, s in cosine.judged), np.sum(output * held.y, axis=1).mean(), rtol=1e-5)


def test_a_start_that_nothing_beats_comes_back_as_it_was(toy):
    found = train(*toy, replace(SHORT, rate=10.0, average=0.0))
    assert found.best == 0
    assert_same(found.params, toy[1])


def test_what_is_not_trained_is_left_as_it_was(toy):
    found = train(*toy, replace(SHORT, only=("out",), judge="cosine"))
    assert found.best > 0
    assert_same({**found.params, "out": 0}["in"], toy[1]["in"])
    assert_same({k: v for k, v in found.params.items() if k != "out"}, {k: v for k, v in toy[1].items() if k != "out"})
    assert not np.array_equal(found.params["out"]["kernel"], toy[1]["out"]["kernel"])
    assert list(found.params) == list(toy[1])


def test_half_parameters_stay_half_and_the_callers_arrays_live_on(toy):
    module, params, *rest = toy
    half = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), params)
    found = train(module, half, *rest, replace(SHORT, judge="cosine"))
    assert found.best > 0
    assert {leaf.dtype for leaf in jax.tree.leaves(found.params)} == {jnp.dtype(jnp.bfloat16)}
    assert np.all(np.isfinite(np.asarray(half["in"]["kernel"], np.float32)))


def test_a_stopped_run_goes_on_to_the_same_end(toy, tmp_path, monkeypatch):
    whole, judged = train(*toy, SHORT), training_module._judged

    def stop(run, state, step, *rest):
        if step == 30:
            raise KeyboardInterrupt
        return judged(run, state, step, *rest)

    monkeypatch.setattr(training_module, "_judged", stop)
    with pytest.raises(KeyboardInterrupt):
        train(*toy, SHORT, folder=tmp_path)
    monkeypatch.undo()
    found = train(*toy, SHORT, folder=tmp_path)
    assert_same(found.params, whole.params)
    assert (found.judged, found.best, found.steps) == (whole.judged, whole.best, whole.steps)


def test_a_finished_run_is_not_done_again(toy, tmp_path, monkeypatch):
    first = train(*toy, SHORT, folder=tmp_path)
    monkeypatch.setattr(training_module, "_step", None)
    again = train(*toy, SHORT, folder=tmp_path)
    assert_same(again.params, first.params)
    assert again[1:] == first[1:]


def test_a_run_of_other_arguments_is_not_gone_on_with(toy, tmp_path):
    module, params, x, y, held = toy
    train(*toy, SHORT, folder=tmp_path)
    with pytest.raises(BadInput, match=r"rate was 0.001 and is 0.002; seed was 0 and is 1\): give the same ones"):
        train(*toy, replace(SHORT, rate=2e-3), seed=1, folder=tmp_path)
    with pytest.raises(BadInput, match=r"\(x was float32 \(200, 8\) \w+ and is float32 \(199, 8\) \w+; y was"):
        train(module, params, x[:-1], y[:-1], held, SHORT, folder=tmp_path)
    with pytest.raises(BadInput, match=r"\(held.y was float32"):
        train(module, params, x, y, held._replace(y=held.y[::-1]), SHORT, folder=tmp_path)


LONG = replace(SHORT, steps=100, every=4, patience=1000, judge="cosine")
KILLED = f"""
import sys
from pathlib import Path
import jax
import numpy as np
from ea_jax.mlp import mlp_start
from ea_jax.train import Held, Terms, Training, train
with np.load("pairs.npz") as pairs:
    x, y, *held = (pairs[name] for name in pairs.files)
found = train(*mlp_start(x, y, width=16, depth=1), x, y, Held(*held), {LONG}, folder=Path("run"))
np.savez("found.npz", *jax.tree.leaves(found.params))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end(toy, tmp_path):
    _, _, x, y, held = toy
    np.savez(tmp_path / "pairs.npz", x, y, *held)
    command = [sys.executable, "-c", KILLED]
    run = subprocess.Popen(command, cwd=tmp_path)
    while run.poll() is None and not any(int(kept.name) >= 40 for kept in (tmp_path / "run").glob("*[0-9]")):
        time.sleep(0.001)
    assert run.poll() is None, "the run ended before it could be killed"
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    subprocess.run(command, cwd=tmp_path, check=True)
    whole = jax.tree.leaves(train(*toy, LONG).params)
    with np.load(tmp_path / "found.npz") as found:
        for leaf, name in zip(whole, found.files, strict=True):
            np.testing.assert_array_equal(found[name], leaf)


def test_a_loss_that_is_not_finite_stops_with_its_step(toy):
    module, params, x, y, held = toy
    bad = y.copy()
    bad[0] = np.inf
    with pytest.raises(BadInput, match=r"stopped at step 1: the loss is not finite\. Try a smaller rate"):
        train(module, params, x, bad, held, replace(SHORT, batch=1000))
    broken = {**params, "in": {**params["in"], "bias": params["in"]["bias"] * np.nan}}
    with pytest.raises(BadInput, match=r"Outputs after step 0 are not finite"):
        train(module, broken, x, y, held, SHORT)


def test_a_batch_larger_than_the_pairs_is_all_of_them(toy):
    assert train(*toy, replace(SHORT, batch=10_000)).steps == 40


def test_what_does_not_fit_is_told_at_the_door(toy):
    module, params, x, y, held = toy
    for change, told in [
        ({"y": y[:-1]}, "x has 200 rows and y 199"),
        ({"x": x[:0], "y": y[:0]}, "x has no rows"),
        ({"held": held._replace(x=held.x[:-1])}, "held.x has 99 rows and held.y 100"),
        ({"held": held._replace(corpus=held.corpus[:, :-1])}, "held.corpus has width 11, where the pairs have 12"),
        ({"held": held._replace(corpus=held.corpus * np.nan)}, "held.corpus has values that are not finite"),
        ({"training": replace(SHORT, only=("oot",))}, "No parameters are named 'oot'. Did you mean out?"),
        ({"params": {**params, "out": {"kernel": np.ones((3, 3), np.int8)}}}, "'out' holds int8"),
        ({"seed": -1}, "seed is -1"),
    ]:
        arguments = {"params": params, "x": x, "y": y, "held": held, "training": SHORT, **change}
        with pytest.raises(BadInput, match=told):
            train.__wrapped__(module, **arguments)  # without the tests' type checker


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": 0}, "steps is 0; it must be 1 or more"),
        ({"batch": 0}, "batch is 0"),
        ({"warmup": 1.0}, "warmup is 1.0; it must be from 0 to below 1"),
        ({"average": -0.1}, "average is -0.1"),
        ({"mixup": -1.0}, "mixup is -1.0; it must be 0 or more"),
        ({"rate": 0.0}, "rate is 0.0; it must be above 0"),
        ({"terms": Terms(cosine=0.0)}, "Every term of the loss has weight 0"),
        ({"terms": Terms(temperature=0.0)}, "temperature is 0.0"),
    ],
)
def test_a_number_out_of_range_is_told(change, told):
    with pytest.raises(BadInput, match=told):
        replace(SHORT, **change)


def test_one_step_and_no_warmup_are_enough():
    x, y, held = parts(*toy_pairs(400))
    module = Linear(12, True)
    params = module.init(jax.random.key(0), jnp.asarray(x))["params"]
    found = train(module, params, x, y, held, Training(steps=1, warmup=0.0, average=0.0, judge="cosine"))
    assert found.best == found.steps == 1


def test_a_bar_is_drawn_on_stderr_alone(toy, capsys):
    train(*toy, SHORT, show_progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Training" in err
    assert "40/40" in err


def test_the_networks_training_is_a_training():
    assert isinstance(MLP_TRAINING, Training)
