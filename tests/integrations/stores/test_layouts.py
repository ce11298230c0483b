"""The layouts of LangChain and LlamaIndex, written with the engines' clients, are read without options."""

import json
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ea_jax.errors import BadInput
from ea_jax.integrations.stores import open_store
from tests.integrations.stores.conftest import WIDTH, by_id, make_rows, need, read_all, to_lists

N = 12
IDS = [str(uuid.uuid5(uuid.NAMESPACE_URL, str(i))) for i in range(N)]
TEXTS = [f"text {i}" for i in range(N)]
VECTORS = np.stack(make_rows(N).column("vector").to_pylist()).astype(np.float32)


def node(i: int) -> dict:
    """Make the payload that LlamaIndex writes: flat metadata, and the node as JSON."""
    content = {"id_": IDS[i], "metadata": {"page": i}, "text": TEXTS[i], "class_name": "TextNode"}
    return {"page": i, "_node_content": json.dumps(content), "_node_type": "TextNode", "doc_id": "d", "ref_doc_id": "d"}


def check(url: str, ids=IDS, **payload) -> None:
    """Check the id, text and vector of each row, and the page in its payload."""
    with open_store(url) as store:
        assert store.describe().rows == N
        observed = by_id(read_all(store))
    assert [observed[i]["text"] for i in ids] == TEXTS
    np.testing.assert_allclose([observed[i]["vector"] for i in ids], VECTORS, atol=2e-7)
    for i, row in enumerate(ids):
        metadata = observed[row]["payload"]
        assert metadata.get("metadata", metadata)["page"] == i


@pytest.mark.parametrize("framework", ["langchain", "llama-index", "named vector"])
def test_qdrant_layouts(framework, folder):
    need("qdrant")
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(folder))
    name = "text-dense" if framework == "named vector" else ""
    params = models.VectorParams(size=WIDTH, distance=models.Distance.COSINE)
    client.create_collection("docs", {name: params} if name else params)
    payloads = [{"page_content": TEXTS[i], "metadata": {"page": i}} for i in range(N)]
    if framework == "llama-index":
        payloads = [node(i) for i in range(N)]
    vectors = {name: VECTORS.tolist()} if name else VECTORS.tolist()
    client.upsert("docs", models.Batch(ids=IDS, vectors=vectors, payloads=payloads))
    client.close()
    check(f"qdrant:{folder}#docs")
    with open_store(f"qdrant:{folder}#docs") as store, store.create_sibling("mapped", WIDTH) as sibling:
        for rows, _ in store.read():
            sibling.write(rows)
        if framework == "llama-index":  # the node is unchanged, and no second text is added
            assert by_id(read_all(sibling))[IDS[3]]["payload"] == node(3)
    check(f"qdrant:{folder}#mapped")


@pytest.mark.parametrize("framework", ["langchain", "llama-index"])
def test_chroma_layouts(framework, folder):
    need("chroma")
    import chromadb

    client = chromadb.PersistentClient(folder)
    collection = client.create_collection("docs", embedding_function=None)
    metadatas = [{"page": i} if framework == "langchain" else node(i) for i in range(N)]
    collection.add(ids=IDS, embeddings=VECTORS, documents=TEXTS, metadatas=metadatas)
    client.close()
    check(f"chroma:{folder}#docs")


@pytest.mark.parametrize("framework", ["langchain", "llama-index"])
def test_lancedb_layouts(framework, folder):
    need("lancedb")
    import lancedb

    columns = {"vector": to_lists(VECTORS), "id": IDS, "text": TEXTS}
    metadata: list = [{"page": i, "source": "a"} for i in range(N)]
    if framework == "llama-index":
        columns, metadata = {"id": IDS, "doc_id": ["d"] * N, **columns}, [node(i) for i in range(N)]
    lancedb.connect(folder).create_table("docs", pa.table({**columns, "metadata": metadata}))
    check(f"lancedb:{folder}#docs")


def test_lancedb_without_ids_can_be_read_but_not_written(folder):
    need("lancedb")
    import lancedb

    table = pa.table({"vector": to_lists(VECTORS), "text": TEXTS, "page": list(range(N))})
    lancedb.connect(folder).create_table("docs", table)
    check(f"lancedb:{folder}#docs", [str(i) for i in range(N)])
    with open_store(f"lancedb:{folder}#docs") as store, pytest.raises(BadInput, match="no id column"):
        store.write(make_rows(2))


def vector_text(i: int) -> str:
    return "[" + ",".join(repr(float(value)) for value in VECTORS[i]) + "]"


@pytest.mark.parametrize("framework", ["langchain", "langchain v2", "llama-index", "halfvec"])
def test_pgvector_layouts(framework, postgres):
    import psycopg

    table = f"layout_{uuid.uuid4().hex[:8]}"
    ids = IDS
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("create extension if not exists vector")
        if framework == "langchain":
            connection.execute("drop table if exists langchain_pg_embedding, langchain_pg_collection")
            connection.execute(
                "create table langchain_pg_collection (name varchar, cmetadata json, uuid uuid primary key)"
            )
            connection.execute(
                "create table langchain_pg_embedding (id varchar primary key, collection_id uuid, embedding vector, "
                "document varchar, cmetadata jsonb)"
            )
            collections = [uuid.uuid4(), uuid.uuid4()]
            for name, one in zip(("docs", "other"), collections, strict=True):
                connection.execute("insert into langchain_pg_collection values (%s, null, %s)", (name, one))
            insert = "insert into langchain_pg_embedding values (%s, %s, %s, %s, %s)"
            for i in range(N):
                page = json.dumps({"page": i})
                connection.execute(insert, (IDS[i], collections[0], vector_text(i), TEXTS[i], page))
            connection.execute(insert, ("other", collections[1], "[1,2,3]", "a", "{}"))
            table = "langchain_pg_embedding"
        elif framework == "llama-index":
            table, ids = f"data_{table}", [str(i + 1) for i in range(N)]
            connection.execute(
                f"create table {table} (id bigserial primary key, text varchar not null, metadata_ json, "
                f"node_id varchar, embedding vector({WIDTH}))"
            )
            insert = f"insert into {table} (text, metadata_, node_id, embedding) values (%s, %s, %s, %s)"
            for i in range(N):
                connection.execute(insert, (TEXTS[i], json.dumps(node(i)), IDS[i], vector_text(i)))
        else:
            kind = "halfvec" if framework == "halfvec" else "vector"
            connection.execute(
                f"create table {table} (langchain_id uuid primary key, content text not null, "
                f"embedding {kind}({WIDTH}) not null, page integer, langchain_metadata json)"
            )
            insert = f"insert into {table} values (%s, %s, %s, %s, null)"
            for i in range(N):
                connection.execute(insert, (IDS[i], TEXTS[i], vector_text(i), i))
    mark = "&" if "?" in postgres else "?"
    if framework == "langchain":
        with pytest.raises(BadInput, match=r"several LangChain collections.*docs, other"):
            open_store(f"{postgres}#{table}")
        check(f"{postgres}{mark}collection=docs#{table}", ids)
    elif framework == "halfvec":
        with open_store(f"{postgres}#{table}") as store:
            vectors = np.stack(read_all(store).column("vector").to_pylist())
            half = dict(zip(IDS, VECTORS.astype(np.float16), strict=True))
            ids = read_all(store, ("id",)).column("id").to_pylist()
            np.testing.assert_array_equal(vectors, [half[i] for i in ids])
    else:
        check(f"{postgres}#{table}", ids)


def write_flat(path, index=None) -> None:
    import faiss

    index = index or faiss.IndexFlatIP(WIDTH)
    index.add(VECTORS)
    faiss.write_index(index, str(path))


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_faiss_with_texts_in_row_order(suffix, folder):
    need("faiss")
    write_flat(folder / "index.faiss")
    rows = [{"id": IDS[i], "text": TEXTS[i], "page": i} for i in range(N)]
    texts = folder / f"texts{suffix}"
    if suffix == ".jsonl":
        texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), texts)
    else:
        texts.write_text("id,text,page\n" + "".join(f"{r['id']},{r['text']},{r['page']}\n" for r in rows))
    url = f"faiss:{folder}/index.faiss?texts={texts}"
    check(url)
    with open_store(url) as store, store.create_sibling("mapped.faiss", WIDTH) as sibling:
        for rows, _ in store.read(("id", "vector"), batch_rows=5):
            sibling.write(rows.slice(0))
        sibling.flush()
        import faiss

        kind = type(faiss.downcast_index(faiss.read_index(f"{folder}/mapped.faiss")))
        assert kind is faiss.IndexFlatIP  # the application identifies rows by their order
    check(f"faiss:{folder}/mapped.faiss?texts={texts}")


def test_faiss_reads_llama_index_files(folder):
    need("faiss")
    write_flat(folder / "default__vector_store.json")
    nodes = {
        IDS[i]: {"__data__": {"id_": IDS[i], "text": TEXTS[i], "metadata": {"page": i}}, "__type__": "1"}
        for i in range(N)
    }
    (folder / "docstore.json").write_text(json.dumps({"docstore/data": nodes}))
    data = json.dumps({"index_id": "x", "nodes_dict": {str(i): IDS[i] for i in range(N)}})
    stored = {"index_store/data": {"x": {"__type__": "vector_store", "__data__": data}}}
    (folder / "index_store.json").write_text(json.dumps(stored))
    check(f"faiss:{folder}/default__vector_store.json")


@pytest.mark.parametrize("pickle", ["index.faiss?texts={}/index.pkl", "index.pkl"])
def test_faiss_never_opens_a_pickle(pickle, folder):
    need("faiss")
    write_flat(folder / "index.faiss")
    (folder / "index.pkl").write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    with pytest.raises(BadInput, match="is a pickle"):
        open_store(f"faiss:{folder}/{pickle}".format(folder))
    with open_store(f"faiss:{folder}/index.faiss") as store:  # LangChain's layout: a pickle next to the index
        assert read_all(store).column("text").null_count == N


@pytest.mark.parametrize("kind", ["IVF2,Flat", "HNSW8,Flat", "IDMap,Flat", "SQfp16"])
def test_faiss_reads_exact_indexes(kind, folder):
    need("faiss")
    import faiss

    index = faiss.index_factory(WIDTH, kind, faiss.METRIC_L2)
    index.train(VECTORS)
    if kind.startswith("IDMap"):
        index.add_with_ids(VECTORS, np.arange(N)[::-1] + 100)
    else:
        index.add(VECTORS)
    faiss.write_index(index, str(folder / "index.faiss"))
    with open_store(f"faiss:{folder}/index.faiss") as store:
        table = read_all(store, ("vector",), batch_rows=5)
    order = slice(None, None, -1) if kind.startswith("IDMap") else slice(None)
    tolerance = 1e-3 if kind == "SQfp16" else 0
    np.testing.assert_allclose(np.stack(table.column("vector").to_pylist()), VECTORS[order], atol=tolerance)


@pytest.mark.parametrize("kind", ["PQ4x4", "IVF2,PQ4x4", "SQ8", "PCA8,Flat"])
def test_faiss_rejects_approximate_vectors(kind, folder):
    need("faiss")
    import faiss

    index = faiss.index_factory(WIDTH, kind)
    vectors = np.stack(make_rows(400).column("vector").to_pylist()).astype(np.float32)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(folder / "index.faiss"))
    with open_store(f"faiss:{folder}/index.faiss") as store:
        assert store.describe().rows == 400
        with pytest.raises(BadInput, match="keeps only an approximation"):
            next(store.read(("id", "vector")))


@pytest.mark.parametrize("layout", ["langchain", "vec0 by row number"])
def test_sqlite_vec_layouts(layout, folder):
    need("sqlite-vec")
    from ea_jax.integrations.stores.sqlite_vec import _connect
    from ea_jax.integrations.stores.urls import parse_store_url

    url = f"sqlite-vec:{folder}/docs.db#docs"
    connection = _connect(parse_store_url(url))
    ids = [str(i + 1) for i in range(N)]
    if layout == "langchain":
        connection.execute(
            "create table docs (rowid integer primary key autoincrement, text text, metadata blob, text_embedding blob)"
        )
        connection.execute(
            f"create virtual table docs_vec using vec0(rowid integer primary key, text_embedding float[{WIDTH}])"
        )
        connection.execute(
            "create trigger embed_text after insert on docs begin insert into docs_vec(rowid, text_embedding) "
            "values (new.rowid, new.text_embedding); end"
        )
        insert = "insert into docs(text, metadata, text_embedding) values (?, ?, ?)"
        for i in range(N):
            connection.execute(insert, (TEXTS[i], json.dumps({"page": i}), VECTORS[i].tobytes()))
    else:
        connection.execute(
            f"create virtual table docs using vec0(embedding float[{WIDTH}], +contents text, page integer)"
        )
        for i in range(N):
            insert = "insert into docs(rowid, embedding, contents, page) values (?, ?, ?, ?)"
            connection.execute(insert, (i + 1, VECTORS[i].tobytes(), TEXTS[i], i))
        url = url.replace("#", "?text=contents#")
    connection.close()
    check(url, ids)


@pytest.mark.parametrize("framework", ["langchain", "llama-index", "quick setup"])
def test_milvus_layouts(framework, folder):
    need("milvus")
    from milvus_lite.server_manager import server_manager_instance
    from pymilvus import DataType, MilvusClient

    path = str(folder / "milvus.db")
    client = MilvusClient(path)
    ids = IDS
    if framework == "quick setup":
        ids = [str(i) for i in range(N)]
        client.create_collection("docs", dimension=WIDTH)
        client.upsert("docs", [{"id": i, "vector": VECTORS[i], "text": TEXTS[i], "page": i} for i in range(N)])
    else:
        key, vector = ("pk", "vector") if framework == "langchain" else ("id", "embedding")
        schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
        schema.add_field(key, DataType.VARCHAR, is_primary=True, max_length=65535)
        schema.add_field(vector, DataType.FLOAT_VECTOR, dim=WIDTH)
        if framework == "langchain":
            schema.add_field("text", DataType.VARCHAR, max_length=65535)
        index = client.prepare_index_params()
        index.add_index(vector, index_type="AUTOINDEX", metric_type="COSINE")
        client.create_collection("docs", schema=schema, index_params=index)
        extra = [{"text": TEXTS[i], "page": i} if framework == "langchain" else node(i) for i in range(N)]
        client.upsert("docs", [{key: IDS[i], vector: VECTORS[i], **extra[i]} for i in range(N)])
    client.close()
    server_manager_instance.release_server(path)
    check(f"milvus:{path}#docs", ids)
