"""The classes of each framework, with a toy encoder."""

import asyncio
import pickle

import numpy as np
import pytest

from ea_jax.errors import MissingDependency
from ea_jax.integrations import shared

TEXTS = ["where can I get a hamburger", "two words", "hamburger"]
NAMES = {"source": "toy-a", "target": "toy-b"}


@pytest.fixture(autouse=True)
def toy_names(toy, monkeypatch):
    """Load the toy encoder for all names."""
    monkeypatch.setattr(shared, "load_adapted_encoder", lambda *_: toy)
    shared.shared_encoder.cache_clear()
    yield
    shared.shared_encoder.cache_clear()


@pytest.fixture(scope="module")
def query(toy):
    return toy.embed(TEXTS, "query").vectors


@pytest.fixture(scope="module")
def store(toy):
    return toy.embed(TEXTS, "store").vectors


def check(vectors, expected):
    np.testing.assert_allclose(np.asarray(vectors, np.float32), expected, atol=1e-6)


def test_a_missing_framework_is_named():
    class Component(shared.missing_base("framework", "extra")):
        pass

    with pytest.raises(MissingDependency, match=r"framework is not installed: pip install 'ea_jax\[extra\]'"):
        Component(**NAMES)


def test_langchain(query, store):
    pytest.importorskip("langchain_core")
    from ea_jax.integrations.langchain import EaJaxEmbeddings

    embeddings = EaJaxEmbeddings(**NAMES)
    check(embeddings.embed_query(TEXTS[0]), query[0])
    check(embeddings.embed_queries(TEXTS), query)
    check(embeddings.embed_documents(TEXTS), store)
    check(asyncio.run(embeddings.aembed_query(TEXTS[1])), query[1])
    check(asyncio.run(embeddings.aembed_documents(TEXTS)), store)
    assert len(EaJaxEmbeddings(**NAMES, dimensions=5).embed_query(TEXTS[0])) == 5
    assert embeddings.embed_documents([]) == []
    for again in (pickle.loads(pickle.dumps(embeddings)), EaJaxEmbeddings(**embeddings.model_dump())):
        assert again == embeddings
    assert embeddings.native_similarity([0.1, 0.5]).shape == (2,)


def test_langchains_vector_store_searches_with_query_vectors(toy):
    pytest.importorskip("langchain_core")
    from langchain_core.vectorstores import InMemoryVectorStore

    from ea_jax.integrations.langchain import EaJaxEmbeddings

    index = InMemoryVectorStore(EaJaxEmbeddings(**NAMES))
    index.add_texts(TEXTS)
    hits = index.similarity_search_with_score(TEXTS[2], k=3)
    y = toy.embed(TEXTS, "store").vectors
    expected = np.sort(toy.similarity(toy.encode_query(TEXTS[2]), y)[0])[::-1]
    check([score for _, score in hits], expected)


def test_langchains_cache_has_a_separate_store_for_queries(query, store):
    cache = pytest.importorskip("langchain_classic.embeddings.cache")
    from langchain_core.stores import InMemoryByteStore

    from ea_jax.integrations.langchain import EaJaxEmbeddings

    cached = cache.CacheBackedEmbeddings.from_bytes_store(
        EaJaxEmbeddings(**NAMES),
        InMemoryByteStore(),
        namespace="toy",
        query_embedding_cache=InMemoryByteStore(),
        key_encoder="sha256",
    )
    for _ in range(2):
        check(cached.embed_documents(TEXTS), store)
        check(cached.embed_query(TEXTS[0]), query[0])


def test_llama_index(query, store):
    pytest.importorskip("llama_index.core")
    from llama_index.core.storage.kvstore import SimpleKVStore

    from ea_jax.integrations.llama_index import EaJaxEmbedding

    embedding = EaJaxEmbedding(**NAMES)
    check(embedding.get_query_embedding(TEXTS[0]), query[0])
    check(embedding.get_text_embedding(TEXTS[0]), store[0])
    check(embedding.get_text_embedding_batch(TEXTS), store)
    check(asyncio.run(embedding.aget_query_embedding(TEXTS[0])), query[0])
    check(asyncio.run(embedding.aget_text_embedding_batch(TEXTS)), store)
    again = EaJaxEmbedding.from_dict(embedding.to_dict())
    assert (again.source, again.target, again.model_name) == ("toy-a", "toy-b", "toy-a--toy-b")
    cached = EaJaxEmbedding(**NAMES, embeddings_cache=SimpleKVStore())
    for _ in range(2):
        check(cached.get_text_embedding(TEXTS[0]), store[0])
        check(cached.get_query_embedding(TEXTS[0]), query[0])
        check(asyncio.run(cached.aget_query_embedding(TEXTS[0])), query[0])
    assert embedding.native_similarity(0.3).shape == ()


def test_haystack(query, store):
    pytest.importorskip("haystack")
    from haystack import Document, Pipeline

    from haystack_integrations.components.embedders.ea_jax import EaJaxDocumentEmbedder, EaJaxTextEmbedder

    pipeline = Pipeline()
    pipeline.add_component("query", EaJaxTextEmbedder(**NAMES))
    pipeline.add_component("documents", EaJaxDocumentEmbedder(**NAMES))
    for one in (pipeline, Pipeline.loads(pipeline.dumps())):
        documents = [Document(content=text) for text in TEXTS]
        output = one.run({"query": {"text": TEXTS[0]}, "documents": {"documents": documents}})
        check(output["query"]["embedding"], query[0])
        assert 0 <= output["query"]["meta"]["confidence"] <= 1
        check([document.embedding for document in output["documents"]["documents"]], store)
        assert all(document.embedding is None for document in documents)
    embedder = EaJaxDocumentEmbedder(**NAMES, meta_fields_to_embed=["title"], embedding_separator=" ", suffix="")
    assert EaJaxDocumentEmbedder.from_dict(embedder.to_dict()).arguments() == embedder.arguments()
    titled = [Document(content="words", meta={"title": "two"})]
    check(asyncio.run(embedder.run_async(titled))["documents"][0].embedding, store[1])
    check(asyncio.run(EaJaxTextEmbedder(**NAMES).run_async(TEXTS[0]))["embedding"], query[0])
    with pytest.raises(TypeError, match="EaJaxDocumentEmbedder"):
        EaJaxTextEmbedder(**NAMES).run(["a"])


def test_chroma(tmp_path, toy, query, store):
    chromadb = pytest.importorskip("chromadb")
    from chromadb.config import Settings
    from chromadb.utils.embedding_functions import known_embedding_functions

    from ea_jax.integrations.chroma import EaJaxEmbeddingFunction

    function = EaJaxEmbeddingFunction(**NAMES)
    check(np.stack(function(TEXTS)), store)
    check(np.stack(function.embed_query(TEXTS)), query)
    assert known_embedding_functions["ea_jax"] is EaJaxEmbeddingFunction
    settings = Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(str(tmp_path), settings)
    client.create_collection("notes", embedding_function=function).add(ids=["0", "1", "2"], documents=TEXTS)
    again = client.get_collection("notes")  # Chroma looks the class up by its stored name
    hits = again.query(query_texts=[TEXTS[2]], n_results=3)
    expected = np.sort(1 - toy.similarity(query[2], store)[0])
    np.testing.assert_allclose(hits["distances"][0], expected, atol=1e-5)
    assert function.get_config() == {**NAMES, "flavor": None, "registry": None, "dimensions": None}
    with pytest.raises(ValueError, match="target of a collection cannot change"):
        function.validate_config_update(function.get_config(), {"target": "other"})


@pytest.mark.slow
def test_mteb(toy, monkeypatch, tmp_path):
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path))
    mteb = pytest.importorskip("mteb")
    from mteb.mocks.mock_tasks.retrieval import MockRetrievalTask

    from ea_jax.integrations.mteb import EaJaxMteb

    model = EaJaxMteb(toy)
    seen = []
    embed = type(toy).embed
    monkeypatch.setattr(
        type(toy), "embed", lambda self, texts, purpose: seen.append(purpose) or embed(self, texts, purpose)
    )
    result = mteb.evaluate(model, MockRetrievalTask(), cache=None, co2_tracker=False, show_progress_bar=False)
    assert set(seen) == {"query", "store"}
    assert 0 <= result.task_results[0].get_score() <= 1
    assert model.similarity_pairwise(np.eye(2), np.eye(2)).tolist() == [1, 1]
