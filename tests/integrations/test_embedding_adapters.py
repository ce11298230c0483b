import io
import json
import sys

import numpy as np
import pytest

from ea_jax import EmbeddingAdapter
from ea_jax.errors import BadInput
from ea_jax.loading import load, load_quality

NAMES = {"source": "sentence-transformers/all-MiniLM-L6-v2", "target": "openai/text-embedding-3-small"}


def test_calls_of_embedding_adapters_match_the_library(minilm):
    adapter = EmbeddingAdapter.from_registry(**NAMES, flavor="small", device="cpu")
    x = minilm(["NASA announces discovery of Earth-like exoplanet.", "Can you help me find my keys?"])
    plain, quality = load("minilm", "oai-3-small"), load_quality("minilm", "oai-3-small")
    np.testing.assert_array_equal(adapter.encode_embeddings(x), plain(plain.params, x))
    scores = adapter.score_source(x)
    np.testing.assert_array_equal(scores["confidence"], quality(quality.params, x).confidence)


# The examples of the seed's README, with its imports and its lines of sentence_transformers changed, and no others.
FIRST = """
import os
import time
import torch
import numpy as np
from ea_jax import load_encoder
from ea_jax import EmbeddingAdapter
src_model = load_encoder("sentence-transformers/all-MiniLM-L6-v2")
device = "cuda" if torch.cuda.is_available() else "cpu"
adapter = EmbeddingAdapter.from_registry(
    source="sentence-transformers/all-MiniLM-L6-v2",
    target="openai/text-embedding-3-small",
    flavor="large",
    device=device,
    huggingface_token=os.environ['HUGGINGFACE_TOKEN']
)
texts = [
    "NASA announces discovery of Earth-like exoplanet.",
    "Can you help me find my keys?"
]
start = time.time()
src_embs = src_model.encode(
    texts,
    convert_to_numpy=True,
    normalize_embeddings=True, # important: matches adapter training setup
)
translated_embs = adapter.encode_embeddings(src_embs)  # (N, out_dim)
elapsed_ms = (time.time() - start) * 1000.0
print(f"[Device: {device}]")
print(f"Elapsed time for {len(texts)} embeddings in batch: {elapsed_ms:.2f} ms")
print(f"Average per embedding: {(elapsed_ms / len(texts)):.2f} ms")
print("Translated embeddings shape:", translated_embs.shape)
print("First 8 dims of first translated emb:", translated_embs[0][:8])
"""
QUALITY = """
import os
import time
import torch
import numpy as np
from ea_jax import load_encoder
from ea_jax import EmbeddingAdapter
from ea_jax.quality import interpret_quality
device = "cuda" if torch.cuda.is_available() else "cpu"
print("Using device:", device)
src_model = load_encoder("sentence-transformers/all-MiniLM-L6-v2")
adapter = EmbeddingAdapter.from_registry(
    source="sentence-transformers/all-MiniLM-L6-v2",
    target="openai/text-embedding-3-small",
    flavor="large",
    device=device,
)
texts = [
    "NASA announces discovery of Earth-like exoplanet.",
    "How do I build a RAG pipeline?",
    "Where can I get a hamburger near me?",
    "asdfasdfasdfasdfasdfasdfasdfasdfasdfasdf",  # junk text to see quality drop
]
src_embs = src_model.encode(
    texts,
    convert_to_numpy=True,
    normalize_embeddings=True,
)
t0 = time.time()
translated = adapter.encode_embeddings(src_embs)
t_ms = (time.time() - t0) * 1000.0
print("Source shape     :", src_embs.shape)
print("Translated shape :", translated.shape if hasattr(translated, "shape") else (len(translated), len(translated[0])))
print(f"Translate time   : {t_ms:.2f} ms")
scores = adapter.score_source(src_embs)
print(interpret_quality(texts, scores, space_label="source"))
print(scores)
"""


def test_the_first_example_of_embedding_adapters_runs(minilm, capsys, monkeypatch):
    monkeypatch.setenv("HUGGINGFACE_TOKEN", "hf_x")
    monkeypatch.setenv("HF_TOKEN", "")
    names = {}
    exec(compile(FIRST, "first", "exec"), names)
    assert "Translated embeddings shape: (2, 1536)" in capsys.readouterr().out
    plain = load("minilm", "oai-3-small", flavor="large")
    np.testing.assert_allclose(names["translated_embs"], plain(plain.params, minilm(names["texts"])), atol=1e-5)


def test_the_quality_example_of_embedding_adapters_runs(minilm, capsys):
    names = {}
    exec(compile(QUALITY, "quality", "exec"), names)
    out = capsys.readouterr().out
    assert "Translated shape : (4, 1536)" in out
    assert "4 texts, by their embeddings in the source space:" in out
    assert all(text in out for text in names["texts"])
    assert np.argmin(names["scores"]["confidence"]) == 3


PAIR = ("--source", "sentence-transformers/all-MiniLM-L6-v2", "--target", "openai/text-embedding-3-small")
HAMBURGER = "Where can I get a hamburger?"
TWO = ("--text", "hello", "--text", "world")


@pytest.mark.parametrize(
    ("options", "stdin", "texts", "keys"),
    [
        (("--flavor", "large", "--text", HAMBURGER), "", [HAMBURGER], {"confidence"}),
        (TWO, "", ["hello", "world"], {"confidence"}),
        ((), "hello\nworld\n", ["hello", "world"], {"confidence"}),
        (("--no-quality", "--text", "hello world"), "", ["hello world"], set()),
        (("--ndjson", *TWO), "", ["hello", "world"], {"confidence"}),
    ],
    ids=["one text", "two texts", "stdin", "no quality", "ndjson"],
)
def test_embed_commands_of_embedding_adapters_run(ea, minilm, monkeypatch, options, stdin, texts, keys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
    code, out, err = ea("embed", *PAIR, *options)
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()] if "--ndjson" in options else json.loads(out)
    assert [row["text"] for row in rows] == texts
    for row in rows:
        assert len(row["embedding"]) == 1536
        assert {"text", "embedding"} | keys <= row.keys()
        assert ("confidence" in row) == bool(keys)


SHOWN = {
    "list": "sentence-transformers/all-MiniLM-L6-v2",
    "list --pro-only": "pro",
    "registry": "sentence-transformers/all-MiniLM-L6-v2",
    "info emb_adapter_minilm_to_openai_text-embedding-3-large_v1": "TylerF/emb_adapter_minilm_to_openai",
    "paths": "minilm -> oai-3-small",
    "news": "",
    "version": "ea_jax",
}


@pytest.mark.parametrize("command", SHOWN)
def test_other_commands_of_embedding_adapters_run(ea, command):
    code, out, err = ea(*command.split())
    assert (code, err) == (0, "")
    assert SHOWN[command] in out
    assert out.strip()


def test_encode_is_called_as_in_sentence_transformers(minilm):
    one, rows = minilm.encode("hello"), minilm.encode(["hello", "world"], normalize_embeddings=True)
    assert (one.shape, rows.shape) == ((384,), (2, 384))
    np.testing.assert_allclose(rows[0], one / np.linalg.norm(one), atol=1e-6)
    assert not isinstance(minilm.encode("hello", convert_to_numpy=False), np.ndarray)


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
