"""Real clients against a running server with a bundled adapter."""

import asyncio
import base64
import gc
import json
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest

from ea_jax.integrations.server.models import Catalog, ServedModel, make_catalog
from ea_jax.integrations.server.vocabulary import find_vocabulary
from tests.integrations.server.conftest import running

MODEL, KEY = "text-embedding-3-small", "unused"
TEXTS = ["Where can I get a hamburger?", "NASA announces the discovery of an Earth-like exoplanet.", "naïve 🍔"]
# Some clients do not close their sockets and event loops, which raises a warning in the test that collects them.
UNCLOSED = r"ignore:Exception ignored in. <.*(socket|EventLoop|Transport):pytest.PytestUnraisableExceptionWarning"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(UNCLOSED)]


@pytest.fixture(scope="module", autouse=True)
def collect_garbage():
    """Collect open sockets here, not in another module."""
    yield
    gc.collect()


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [module for module in modules if find_spec(module.partition(".")[0]) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")


def tiktoken_folder() -> Path | None:
    """Folder of an installed package with the vocabulary of OpenAI's embedding models."""
    for package, folder in {
        "litellm": "litellm_core_utils/tokenizers",
        "llama_index": "core/_static/tiktoken_cache",
    }.items():
        spec = find_spec(package)
        for location in (spec.submodule_search_locations or []) if spec else []:
            if (Path(location) / folder / "9b5ad71b2ce5302211f9c61530b329a4922fc6a4").is_file():
                return Path(location) / folder
    return None


@pytest.fixture(scope="module")
def vocabulary():
    folder = tiktoken_folder()
    if folder is None or find_spec("tiktoken") is None:
        pytest.skip("tiktoken and its vocabulary are not on this machine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        find_vocabulary.cache_clear()
        yield find_vocabulary(MODEL)
        find_vocabulary.cache_clear()


def served(real, vocabulary=None) -> Catalog:
    return make_catalog([ServedModel(MODEL, ("oai-3-small",), real, vocabulary)])


@pytest.fixture(scope="module")
def base_url(real) -> Iterator[str]:
    """A server without tiktoken's vocabulary."""
    with running(lambda: served(real)) as address:
        yield f"{address}/v1"


@pytest.fixture(scope="module")
def with_tokens(real, vocabulary) -> Iterator[str]:
    with running(lambda: served(real, vocabulary)) as address:
        yield f"{address}/v1"


@pytest.fixture(scope="module")
def query(real) -> np.ndarray:
    """The library's own vectors, computed one text at a time like the clients' requests."""
    return np.concatenate([real.embed([text], "query").vectors for text in TEXTS])


@pytest.fixture(scope="module")
def store(real) -> np.ndarray:
    return real.embed(TEXTS, "store").vectors


def check(vectors, expected) -> None:
    np.testing.assert_allclose(np.asarray(vectors, np.float32), expected, atol=1e-6)


@needs("openai")
@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_openai_python_sync(base_url, query, encoding):
    import openai

    with openai.OpenAI(base_url=base_url, api_key=KEY) as client:
        options = {} if encoding is None else {"encoding_format": encoding}
        for text, expected in zip(TEXTS, query, strict=True):
            vector = client.embeddings.create(model=MODEL, input=text, **options).data[0].embedding
            if isinstance(vector, str):
                vector = np.frombuffer(base64.b64decode(vector), "<f4")
            check(vector, expected)


@needs("openai")
def test_openai_python_async(base_url, store):
    import openai

    async def request():
        async with openai.AsyncOpenAI(base_url=base_url, api_key=KEY) as client:
            return await client.embeddings.create(model=f"{MODEL}@store", input=TEXTS, dimensions=256)

    answer = asyncio.run(request())
    short = store[:, :256] / np.linalg.norm(store[:, :256], axis=1, keepdims=True)
    check([item.embedding for item in answer.data], short)
    assert answer.model == f"{MODEL}@store"


@needs("openai")
def test_openai_python_lists_models_and_reads_errors(base_url):
    import openai

    with openai.OpenAI(base_url=base_url, api_key=KEY) as client:
        assert next(model.id for model in client.models.list()) == MODEL
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.embeddings.create(model="gpt", input="a")
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model=MODEL, input="")
        assert (caught.value.param, caught.value.code) == ("input", "empty_string")
        items = client.embeddings.create(model=MODEL, input=TEXTS, extra_body={"quality": True}).data
        assert all(0 <= item.model_extra["confidence"] <= 1 for item in items)


@needs("langchain_openai")
def test_langchain_openai_without_tokens(base_url, query, store):
    from langchain_openai import OpenAIEmbeddings

    options = {"base_url": base_url, "api_key": KEY, "check_embedding_ctx_length": False}
    queries, documents = (OpenAIEmbeddings(model=name, **options) for name in (MODEL, f"{MODEL}@store"))
    check(queries.embed_query(TEXTS[0]), query[0])
    check(documents.embed_documents(TEXTS), store)
    check(asyncio.run(queries.aembed_query(TEXTS[1])), query[1])


@needs("langchain_openai", "tiktoken")
def test_langchain_openai_with_tokens(with_tokens, query):
    from langchain_openai import OpenAIEmbeddings

    queries = OpenAIEmbeddings(model=MODEL, base_url=with_tokens, api_key=KEY)  # its default: token ids
    for text, expected in zip(TEXTS, query, strict=True):
        check(queries.embed_query(text), expected)


@needs("langchain_openai", "tiktoken")
def test_langchain_openai_with_tokens_and_no_vocabulary(base_url, vocabulary):
    import openai
    from langchain_openai import OpenAIEmbeddings

    queries = OpenAIEmbeddings(model=MODEL, base_url=base_url, api_key=KEY)
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        queries.embed_query(TEXTS[0])


def test_usage_counts_openais_tokens(with_tokens, vocabulary):
    answer = httpx.post(f"{with_tokens}/embeddings", json={"model": MODEL, "input": TEXTS}, timeout=30).json()
    assert answer["usage"]["prompt_tokens"] == sum(vocabulary.count(text) for text in TEXTS)


@needs("litellm")
def test_litellm(base_url, query, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    options = {"api_base": base_url, "api_key": KEY, "encoding_format": "float"}
    for text, expected in zip(TEXTS, query, strict=True):
        check(litellm.embedding(model=f"openai/{MODEL}", input=[text], **options).data[0]["embedding"], expected)
    answer = asyncio.run(litellm.aembedding(model=f"openai/{MODEL}", input=TEXTS[:1], **options))
    check(answer.data[0]["embedding"], query[0])


@needs("llama_index")
def test_llama_index_openai(base_url, query, store):
    pytest.importorskip("llama_index.embeddings.openai")
    from llama_index.embeddings.openai import OpenAIEmbedding

    queries, documents = (
        OpenAIEmbedding(model_name=name, api_base=base_url, api_key=KEY) for name in (MODEL, f"{MODEL}@store")
    )
    check(queries.get_query_embedding(TEXTS[0]), query[0])
    check(documents.get_text_embedding_batch(TEXTS), store)
    check(asyncio.run(queries.aget_query_embedding(TEXTS[2])), query[2])


@needs("haystack")
def test_haystack_openai(base_url, query, store):
    from haystack import Document
    from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
    from haystack.utils import Secret

    options = {"api_base_url": base_url, "api_key": Secret.from_token(KEY)}
    check(OpenAITextEmbedder(model=MODEL, **options).run(TEXTS[0])["embedding"], query[0])
    documents = OpenAIDocumentEmbedder(model=f"{MODEL}@store", progress_bar=False, **options)
    embedded = documents.run([Document(content=text) for text in TEXTS])["documents"]
    check([document.embedding for document in embedded], store)


@needs("chromadb")
def test_chroma_openai(base_url, store, monkeypatch):
    monkeypatch.setenv("CHROMA_OPENAI_API_KEY", KEY)
    from chromadb.utils.embedding_functions import OpenAIEmbeddingFunction

    documents = OpenAIEmbeddingFunction(api_base=base_url, model_name=f"{MODEL}@store")
    check(np.stack(documents(TEXTS)), store)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(base_url, query):
    body = json.dumps({"model": MODEL, "input": TEXTS[0]})
    command = ["curl", "-sS", f"{base_url}/embeddings", "-H", "Content-Type: application/json", "-d", body]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    check(json.loads(output)["data"][0]["embedding"], query[0])
