from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.errors import BadInput
from ea_jax.loading import load, load_quality
from ea_jax.quality.interpret import interpret_quality
from ea_jax.quality.scores import Quality
from ea_jax.registry.locations import BUNDLED
from tests.adapters.test_adapter import on_two_devices
from tests.conftest import toy_pairs, unit_rows


@pytest.fixture(scope="module")
def quality(toy_root):
    return load_quality("toy-a", "toy-b", root=toy_root)


def test_scores_agree_with_their_formulas(quality):
    x = unit_rows(np.random.default_rng(1), 5, 8)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), quality.params)
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
    np.testing.assert_allclose(quality.features(quality.params, x), z, rtol=3e-3, atol=1e-3)
    z = np.clip((z - p["features"]["mean"]) / p["features"]["deviation"], -5, 5)
    squares = [*z.T, *(z[:, i] * z[:, j] for i in range(4) for j in range(i, 4))]
    ridge = p["cosine"]
    cosine = np.stack(squares, 1) @ ridge["quadratic"] + x @ ridge["x"] + ridge["bias"]
    cosine = np.clip(cosine, ridge["least"], ridge["most"])
    lower = cosine - np.interp(cosine, p["margin"]["at"], p["margin"]["width"])

    def logistic(columns, weights, bias):
        return 1 / (1 + np.exp(-(columns @ weights + bias)))

    foreign = logistic(z[:, :3], p["foreign"]["features"], p["foreign"]["bias"])
    novelty = np.maximum(foreign, logistic(x, p["junk"]["x"], p["junk"]["bias"]))
    hit = logistic(np.c_[z, cosine], np.r_[p["hit"]["features"], p["hit"]["cosine"]], p["hit"]["bias"])
    expected = (maha, knn, conf_maha, conf_knn, novelty, cosine, lower, hit * (1 - novelty))
    for actual, value in zip(quality(quality.params, x), expected, strict=True):
        np.testing.assert_allclose(actual, value, rtol=3e-3, atol=2e-3)


def test_the_confidence_after_a_search_agrees_with_its_formula(quality):
    rng = np.random.default_rng(0)
    confidence, top = rng.random(6).astype(np.float32), -np.sort(-rng.random((6, 10)), axis=1).astype(np.float32)
    weights = jax.tree.map(lambda a: np.asarray(a, np.float64), quality.params["search"])
    gap = top[:, 0] - top[:, 9]
    columns = np.stack([np.log(confidence / (1 - confidence)), top[:, 0], gap, gap**2], 1)
    expected = 1 / (1 + np.exp(-(columns @ weights["features"] + weights["bias"])))
    actual = quality.after_search(quality.params, confidence, top)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)
    assert np.isfinite(quality.after_search(quality.params, np.array([0.0, 1.0], np.float32), top[:2])).all()
    with pytest.raises(BadInput, match="top has 9 scores a query; give the 10 largest"):
        quality.after_search(quality.params, confidence, top[:, :9])


def test_an_imported_adapter_has_no_confidence_after_a_search(quality):
    bare = {name: value for name, value in quality.params.items() if name not in ("search", "similarity")}
    with pytest.raises(BadInput, match="An imported adapter has no confidence after a search"):
        quality.after_search(bare, np.ones(1, np.float32), np.ones((1, 10), np.float32))
    with pytest.raises(BadInput, match="An imported adapter has no map to native similarities"):
        quality.native_similarity(bare, np.ones(1, np.float32))


def test_targets_are_scored_by_their_own_statistics(quality):
    native, other = toy_pairs()[1], unit_rows(np.random.default_rng(1), 50, 12)
    in_domain, random = (quality.score_target(quality.params, y) for y in (native, other))
    assert np.mean(np.asarray(in_domain.conf_knn) > 0.8) > 0.9
    assert np.mean(np.asarray(random.confidence)) < np.mean(np.asarray(in_domain.confidence)) - 0.3
    np.testing.assert_array_equal(in_domain.confidence, np.minimum(in_domain.conf_maha, in_domain.conf_knn))
    with pytest.raises(BadInput, match="width 12"):
        quality.score_target(quality.params, np.ones((2, 8), np.float32))


def test_the_report_has_a_line_for_each_text(quality):
    scores = quality(quality.params, toy_pairs()[0][:3])
    message = interpret_quality(["one", "two  words", "x" * 80], scores, space_label="source")
    assert message == interpret_quality(["one", "two  words", "x" * 80], scores._asdict())
    lines = message.splitlines()
    assert len(lines) == 5
    assert "source space" in lines[0]
    assert "'two words': confidence " in lines[2]
    assert len(lines[3]) < 220
    accepted = int(np.sum(np.asarray(scores.confidence) >= 0.8))
    assert lines[-1].startswith(f"{accepted} of 3 ")
    with pytest.raises(BadInput, match="2 texts and 3 scores"):
        interpret_quality(["one", "two"], scores)


def test_rows_of_the_fit_are_in_domain(quality):
    scores = quality(quality.params, toy_pairs()[0])
    assert np.mean(np.asarray(scores.conf_maha) > 0.8) > 0.9
    assert np.mean(np.asarray(scores.conf_knn) > 0.8) > 0.9


WAYS = {
    "jit": jax.jit,
    "vmap": lambda f: jax.vmap(f, in_axes=(None, 0)),
    "lax.map": lambda f: lambda params, x: jax.lax.map(lambda row: f(params, row), x),
    "two devices": lambda f: on_two_devices(lambda params, x: f(params, x).confidence),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_transform_gives_the_plain_scores(quality, way):
    x = jnp.asarray(unit_rows(np.random.default_rng(1), 6, 8))
    plain, actual = quality(quality.params, x), WAYS[way](quality)(quality.params, x)
    pairs = zip(actual, plain, strict=True) if isinstance(actual, tuple) else [(actual, plain.confidence)]
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_scores_have_a_gradient(quality):
    x = jnp.asarray(unit_rows(np.random.default_rng(1), 3, 8))
    assert np.all(np.isfinite(jax.grad(lambda x: quality(quality.params, x).confidence.sum())(x)))


def test_only_a_non_finite_row_has_no_confidence(quality):  # CASES F20
    x = unit_rows(np.random.default_rng(1), 3, 8)
    x[1, 0] = np.nan
    confidence = np.asarray(quality(quality.params, x).confidence)
    assert list(np.isfinite(confidence)) == [True, False, True]


def test_a_call_without_parameters_shows_the_correct_call(quality):  # CASES F22
    call = type(quality).__call__.__wrapped__  # without the tests' type checker
    with pytest.raises(BadInput, match=r"`quality\(quality\.params, x\)`"):
        call(quality, np.ones((2, 8), np.float32))


def test_length_does_not_matter(quality):
    x = unit_rows(np.random.default_rng(1), 3, 8)
    np.testing.assert_allclose(
        quality(quality.params, 5 * x).mahalanobis, quality(quality.params, x).mahalanobis, rtol=1e-4
    )


def test_another_models_width_is_refused(quality):
    with pytest.raises(BadInput, match="width 8"):
        quality(quality.params, np.ones((2, 5), np.float32))


def test_native_similarities_interpolate_the_knots_and_never_fall(quality):
    knots = quality.params["similarity"]
    score = np.linspace(-1, 1, 50).astype(np.float32)
    similarity = np.asarray(quality.native_similarity(quality.params, score))
    np.testing.assert_allclose(similarity, np.interp(score, knots["score"], knots["native"]), atol=1e-6)
    assert np.all(np.diff(similarity) >= 0)
    assert similarity[-1] > similarity[0]


BUNDLED_SOURCES = {
    "minilm": "oai-3-small",
    "minilm-plus": "oai-3-small",
    "wordllama": "minilm",
    "nomic": "minilm",
    "oai-3-small": "minilm",
    "oai-ada-002": "minilm",
}


@cache
def bundled_quality(source: str) -> Quality:
    return load_quality(source, BUNDLED_SOURCES[source], root=BUNDLED)


def references(quality: Quality) -> np.ndarray:
    """Real embeddings of the source model, which the quality part stores."""
    return np.asarray(quality.params["references"], np.float32)


@pytest.mark.parametrize("source", BUNDLED_SOURCES)
@pytest.mark.parametrize("kind", ["random", "rotated", "permuted"])
def test_vectors_of_no_text_are_novel_to_bundled_adapters(source, kind):  # CASES F2
    quality = bundled_quality(source)
    rng, real = np.random.default_rng(0), references(quality)
    d = real.shape[1]
    vectors = {
        "random": lambda: unit_rows(rng, 400, d),
        "rotated": lambda: (real @ np.linalg.qr(rng.normal(size=(d, d)))[0]).astype(np.float32),
        "permuted": lambda: real[:, rng.permutation(d)],
    }[kind]()
    scores = quality(quality.params, vectors)
    assert np.mean(np.asarray(scores.confidence) > 0.5) < 0.01
    assert np.asarray(scores.novelty).mean() > 0.9
    assert np.asarray(quality(quality.params, real).novelty).mean() < 0.1


@pytest.mark.parametrize(("source", "other"), [("oai-3-small", "oai-ada-002"), ("oai-ada-002", "oai-3-small")])
def test_vectors_of_another_model_are_novel_to_bundled_adapters(source, other):  # CASES F2
    ours, theirs = bundled_quality(source), bundled_quality(other)
    scores = ours(ours.params, references(theirs))
    assert np.asarray(scores.confidence).max() < 0.1
    assert np.asarray(scores.novelty).mean() > 0.9


@pytest.mark.parametrize("purpose", ["store", "query"])
def test_vectors_and_scores_of_one_program_are_those_of_two(toy_root, purpose):
    adapt, quality = (
        load("toy-a", "toy-b", purpose=purpose, root=toy_root),
        load_quality("toy-a", "toy-b", root=toy_root),
    )
    x = unit_rows(np.random.default_rng(0), 7, 8)
    y, scores = quality.map_and_score(quality.params, adapt, x)
    np.testing.assert_allclose(y, adapt(adapt.params, x), atol=1e-6)
    for joint, alone in zip(scores, quality(quality.params, x), strict=True):
        np.testing.assert_allclose(joint, alone, rtol=1e-5, atol=1e-6)


def test_vectors_of_another_entry_are_not_scored(toy_root):
    quality = load_quality("toy-a", "toy-b", root=toy_root)
    with pytest.raises(BadInput, match="not that of the quality part"):
        quality.map_and_score(quality.params, load("minilm", "wordllama"), np.zeros((1, 8), np.float32))
