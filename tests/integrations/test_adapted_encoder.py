"""An adapted encoder returns the same vectors and scores as the library's own calls."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ea_jax import load, load_quality
from ea_jax.errors import BadInput
from ea_jax.integrations.adapted_encoder import AdaptedEncoder

TEXTS = ["where can I get a hamburger", "two words", "hamburger"]


@pytest.mark.parametrize("purpose", ["query", "store"])
def test_vectors_and_scores_equal_the_librarys(toy, toy_root, purpose):
    x, _ = toy.encode_source(TEXTS)
    adapt = load("toy-a", "toy-b", purpose=purpose, root=toy_root)
    quality = load_quality("toy-a", "toy-b", root=toy_root)
    y = toy.embed(TEXTS, purpose)
    np.testing.assert_allclose(y.vectors, adapt(adapt.params, x), atol=1e-6)
    for name, expected in quality(quality.params, x)._asdict().items():
        np.testing.assert_allclose(getattr(y.scores, name), expected, rtol=1e-4, atol=1e-5, err_msg=name)
    assert y.tokens == [6, 2, 1]


def test_it_has_the_methods_of_sentence_transformers(toy):
    one, several = toy.encode_query(TEXTS[0]), toy.encode_document(TEXTS, batch_size=2, show_progress_bar=False)
    np.testing.assert_allclose(one, toy.embed(TEXTS[:1], "query").vectors[0])
    np.testing.assert_allclose(several, toy.embed(TEXTS, "store").vectors)
    assert toy.similarity(one, several).shape == (1, 3)
    assert toy.get_sentence_embedding_dimension() == 12
    assert toy.embed([]).vectors.shape == (0, 12)


def test_dimensions_shorten_to_unit_length(toy):
    whole, short = toy.embed(TEXTS).vectors, toy.embed(TEXTS, dimensions=5).vectors
    np.testing.assert_allclose(short, whole[:, :5] / np.linalg.norm(whole[:, :5], axis=1, keepdims=True), atol=1e-6)
    with pytest.raises(BadInput, match="1 to 12 dimensions"):
        toy.embed(TEXTS, dimensions=13)
    with pytest.raises(BadInput, match="'store' or 'query'"):
        toy.embed(TEXTS, "both")


def test_native_similarity_keeps_the_order(toy):
    scores = np.linspace(-1, 1, 20)
    assert np.all(np.diff(toy.native_similarity(scores)) >= 0)


def test_threads_share_it(toy):
    expected = toy.embed(TEXTS, "query").vectors
    with ThreadPoolExecutor(4) as pool:
        for y in pool.map(lambda _: toy.embed(TEXTS, "query").vectors, range(20)):
            np.testing.assert_array_equal(y, expected)


@pytest.mark.slow
def test_it_is_pickled_by_name(real):
    stored = pickle.dumps(real)
    assert len(stored) < 400
    again = pickle.loads(stored)
    np.testing.assert_array_equal(again.encode_query(TEXTS[0]), real.encode_query(TEXTS[0]))


def test_an_encoder_without_names_is_not_pickled(toy):
    with pytest.raises(BadInput, match="Without names"):
        pickle.dumps(AdaptedEncoder(toy.encoder, toy.query, toy.quality))
