import numpy as np
import pytest

from ea_jax import EmbeddingAdapter
from ea_jax.errors import BadInput
from ea_jax.loading import load, load_quality

NAMES = {"source": "sentence-transformers/all-MiniLM-L6-v2", "target": "openai/text-embedding-3-small"}


def test_the_seeds_calls_give_the_librarys_answers(minilm):
    adapter = EmbeddingAdapter.from_registry(**NAMES, flavor="small", device="cpu")
    x = minilm(["NASA announces discovery of Earth-like exoplanet.", "Can you help me find my keys?"])
    plain, judge = load("minilm", "oai-3-small"), load_quality("minilm", "oai-3-small")
    np.testing.assert_array_equal(adapter.encode_embeddings(x), plain(plain.params, x))
    scores = adapter.score_source(x)
    np.testing.assert_array_equal(scores["confidence"], judge(judge.params, x).confidence)


def test_texts_are_encoded_where_the_encoder_was_loaded(minilm):
    adapter = EmbeddingAdapter.from_pair(**NAMES, load_source_encoder=True)
    np.testing.assert_allclose(adapter.encode(["hello"]), adapter.encode_embeddings(minilm(["hello"])), atol=1e-6)
    with pytest.raises(BadInput, match="load_source_encoder=True"):
        EmbeddingAdapter.from_pair(**NAMES).encode(["hello"])


def test_a_device_that_is_not_there_is_an_error():
    with pytest.raises(BadInput, match="no device 'cuda' here; it has cpu"):
        EmbeddingAdapter.from_registry(**NAMES, device="cuda")


def test_a_token_reaches_the_hubs_client(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    EmbeddingAdapter.from_registry(**NAMES, huggingface_token="hf_x")
    import os

    assert os.environ["HF_TOKEN"] == "hf_x"
