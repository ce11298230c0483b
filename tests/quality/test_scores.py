import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.errors import BadInput
from ea_jax.loading import load_quality
from ea_jax.quality.interpret import interpret_quality
from tests.adapters.test_adapter import on_two_devices
from tests.conftest import toy_pairs, unit_rows


@pytest.fixture(scope="module")
def judge(toy_root):
    return load_quality("toy-a", "toy-b", root=toy_root)


def test_scores_are_the_stated_formulas(judge):
    x = unit_rows(np.random.default_rng(1), 5, 8)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), judge.params)
    c = x - p["mean"]
    inverse = np.eye(8) / p["spread"] ** 2 - p["directions"] @ p["directions"].T
    maha = np.sqrt(np.einsum("ni,ij,nj->n", c, inverse, c))
    knn = np.linalg.norm(x[:, None] - p["references"][None], axis=-1).min(1)

    def confidence(d, p95, p99):
        return 1 / (1 + np.exp(2 * np.log(4) / (p99 - p95) * (d - (p95 + p99) / 2)))

    conf_maha = confidence(maha, p["maha_p95"], p["maha_p99"])
    conf_knn = confidence(knn, p["knn_p95"], p["knn_p99"])
    mean_cosine = x @ p["mean"] / np.linalg.norm(p["mean"])
    length = np.log(np.linalg.norm(x @ p["adapter"]["out"]["kernel"] + p["adapter"]["out"]["bias"], axis=1))
    z = np.stack([maha, knn, mean_cosine, length], 1)
    np.testing.assert_allclose(judge.features(judge.params, x), z, rtol=3e-3, atol=1e-3)
    z = np.clip((z - p["features"]["mean"]) / p["features"]["deviation"], -5, 5)
    squares = [*z.T, *(z[:, i] * z[:, j] for i in range(4) for j in range(i, 4))]
    head = p["cosine"]
    cosine = np.stack(squares, 1) @ head["quadratic"] + x @ head["x"] + head["bias"]
    cosine = np.clip(cosine, head["least"], head["most"])
    lower = cosine - np.interp(cosine, p["margin"]["at"], p["margin"]["width"])

    def logistic(columns, weights, bias):
        return 1 / (1 + np.exp(-(columns @ weights + bias)))

    foreign = logistic(z[:, :3], p["foreign"]["features"], p["foreign"]["bias"])
    novelty = np.maximum(foreign, logistic(x, p["junk"]["x"], p["junk"]["bias"]))
    hit = logistic(np.c_[z, cosine], np.r_[p["hit"]["features"], p["hit"]["cosine"]], p["hit"]["bias"])
    wanted = (maha, knn, conf_maha, conf_knn, novelty, cosine, lower, hit * (1 - novelty))
    for found, want in zip(judge(judge.params, x), wanted, strict=True):
        np.testing.assert_allclose(found, want, rtol=3e-3, atol=2e-3)


def test_the_confidence_after_a_search_is_its_formula(judge):
    rng = np.random.default_rng(0)
    confidence, top = rng.random(6).astype(np.float32), -np.sort(-rng.random((6, 10)), axis=1).astype(np.float32)
    head = jax.tree.map(lambda a: np.asarray(a, np.float64), judge.params["search"])
    gap = top[:, 0] - top[:, 9]
    columns = np.stack([np.log(confidence / (1 - confidence)), top[:, 0], gap, gap**2], 1)
    wanted = 1 / (1 + np.exp(-(columns @ head["features"] + head["bias"])))
    found = judge.after_search(judge.params, confidence, top)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
    assert np.isfinite(judge.after_search(judge.params, np.array([0.0, 1.0], np.float32), top[:2])).all()
    with pytest.raises(BadInput, match="top has 9 scores a query; give the 10 largest"):
        judge.after_search(judge.params, confidence, top[:, :9])


def test_an_imported_adapter_has_no_confidence_after_a_search(judge):
    bare = {name: value for name, value in judge.params.items() if name not in ("search", "similarity")}
    with pytest.raises(BadInput, match="An imported adapter has no confidence after a search"):
        judge.after_search(bare, np.ones(1, np.float32), np.ones((1, 10), np.float32))
    with pytest.raises(BadInput, match="An imported adapter has no map to native similarities"):
        judge.native_similarity(bare, np.ones(1, np.float32))


def test_targets_are_scored_by_the_same_formulas_on_their_own_statistics(judge):
    native, other = toy_pairs()[1], unit_rows(np.random.default_rng(1), 50, 12)
    near, far = (judge.score_target(judge.params, y) for y in (native, other))
    assert np.mean(np.asarray(near.conf_knn) > 0.8) > 0.9
    assert np.mean(np.asarray(far.confidence)) < np.mean(np.asarray(near.confidence)) - 0.3
    np.testing.assert_array_equal(near.confidence, np.minimum(near.conf_maha, near.conf_knn))
    with pytest.raises(BadInput, match="width 12"):
        judge.score_target(judge.params, np.ones((2, 8), np.float32))


def test_the_report_says_a_line_a_text_and_what_to_do(judge):
    scores = judge(judge.params, toy_pairs()[0][:3])
    told = interpret_quality(["one", "two  words", "x" * 80], scores, space_label="source")
    assert told == interpret_quality(["one", "two  words", "x" * 80], scores._asdict())
    lines = told.splitlines()
    assert len(lines) == 5
    assert "source space" in lines[0]
    assert "'two words': confidence " in lines[2]
    assert len(lines[3]) < 220
    sure = int(np.sum(np.asarray(scores.confidence) >= 0.8))
    assert lines[-1].startswith(f"{sure} of 3 ")
    with pytest.raises(BadInput, match="2 texts and 3 scores"):
        interpret_quality(["one", "two"], scores)


def test_rows_like_those_it_was_fitted_on_are_above_the_threshold(judge):
    near = judge(judge.params, toy_pairs()[0])
    assert np.mean(np.asarray(near.conf_maha) > 0.8) > 0.9
    assert np.mean(np.asarray(near.conf_knn) > 0.8) > 0.9


WAYS = {
    "jit": jax.jit,
    "vmap": lambda f: jax.vmap(f, in_axes=(None, 0)),
    "lax.map": lambda f: lambda params, x: jax.lax.map(lambda row: f(params, row), x),
    "two devices": lambda f: on_two_devices(lambda params, x: f(params, x).confidence),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_transform_gives_the_plain_scores(judge, way):
    x = jnp.asarray(unit_rows(np.random.default_rng(1), 6, 8))
    plain, found = judge(judge.params, x), WAYS[way](judge)(judge.params, x)
    pairs = zip(found, plain, strict=True) if isinstance(found, tuple) else [(found, plain.confidence)]
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_scores_have_a_gradient(judge):
    x = jnp.asarray(unit_rows(np.random.default_rng(1), 3, 8))
    assert np.all(np.isfinite(jax.grad(lambda x: judge(judge.params, x).confidence.sum())(x)))


def test_a_row_that_is_not_finite_gets_no_confidence_and_spoils_no_other(judge):
    x = unit_rows(np.random.default_rng(1), 3, 8)
    x[1, 0] = np.nan
    confidence = np.asarray(judge(judge.params, x).confidence)
    assert list(np.isfinite(confidence)) == [True, False, True]


def test_length_does_not_matter(judge):
    x = unit_rows(np.random.default_rng(1), 3, 8)
    np.testing.assert_allclose(judge(judge.params, 5 * x).mahalanobis, judge(judge.params, x).mahalanobis, rtol=1e-4)


def test_another_models_width_is_refused(judge):
    with pytest.raises(BadInput, match="width 8"):
        judge(judge.params, np.ones((2, 5), np.float32))


def test_native_similarities_are_interpolated_between_the_knots_and_never_fall(judge):
    knots = judge.params["similarity"]
    score = np.linspace(-1, 1, 50).astype(np.float32)
    found = np.asarray(judge.native_similarity(judge.params, score))
    np.testing.assert_allclose(found, np.interp(score, knots["score"], knots["native"]), atol=1e-6)
    assert np.all(np.diff(found) >= 0)
    assert found[-1] > found[0]
