"""FAISS index files, with their texts in a second file: `faiss:docs.faiss?texts=docs.parquet`.

Rows are read by FAISS's integer ids. An index is one file, which FAISS holds in memory: rows are written to memory, and
`flush` writes the files. A sibling is a new index over the same texts, published by renaming files. Only exact vectors
are read: quantized indexes return approximations.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int64

from ea_jax.errors import BadInput, StoreUnavailable
from ea_jax.integrations.stores.faiss_texts import KEY, Texts, find_texts, read_texts
from ea_jax.integrations.stores.protocol import (
    COLUMNS,
    Chunk,
    Column,
    Cursor,
    Description,
    Fields,
    IdType,
    Layout,
    Metric,
    Published,
    Store,
)
from ea_jax.integrations.stores.rows import (
    check_columns,
    check_rows,
    check_width,
    infer_id_type,
    make_record_batch,
    vectors_to_numpy,
)
from ea_jax.integrations.stores.urls import StoreUrl
from ea_jax.io.atomic import write_atomically

_OWNER = b"faiss_index"


def open_store(url: StoreUrl, create: Layout | None = None) -> "FaissStore":
    """Open an index file; see `opening.open_store`."""
    if url.path.suffix in (".pkl", ".pickle"):
        raise BadInput(f"{url.location} is a pickle, not an index. LangChain's index is the .faiss file next to it.")
    if create is None and not url.path.exists():
        raise BadInput(f"{url.location} does not exist.")
    with _translate_errors(url):
        store = FaissStore(url, create)
    if create:
        check_width(create.width, store.width, str(url))
    return store


class FaissStore(Store):
    """An index file and its file of texts."""

    writes_are_durable = False

    def __init__(self, url: StoreUrl, create: Layout | None) -> None:
        self.url = url
        self.metric: Metric = create.metric if create else "dot"
        self.index: Any = None
        self.width: int | None = create.width if create else None
        if url.path.exists():
            self._load()
        self.texts_file = find_texts(url)
        if self.texts_file is None and create:
            self.texts_file = url.path.with_suffix(".parquet")
        # Texts of another index are shared with it, and never changed.
        self.owns_texts = self.texts_file is not None and _owner(self.texts_file) == (
            url.path.name if self.texts_file.exists() or create is None else None
        )
        self._texts: Texts | None = None
        self._known: dict[str, int] = {}
        self._index_to_fill: Any = None
        self._has_unsaved_rows = False
        self._new_texts: list[pa.Table] = []

    @property
    def needs(self) -> tuple[Column, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """An index over existing texts needs only ids and vectors."""
        return COLUMNS if self.owns_texts else ("id", "vector")

    def _load(self) -> None:
        self.index = faiss.read_index(str(self.url.path))
        self.width = self.index.d
        self.metric = "dot" if self.index.metric_type == faiss.METRIC_INNER_PRODUCT else "euclidean"

    def _ids(self) -> Int64[np.ndarray, " n"]:
        """Return FAISS's integer ids, in storage order."""
        index = faiss.downcast_index(self.index)
        if isinstance(index, faiss.IndexIDMap):
            return faiss.vector_to_array(index.id_map)
        if isinstance(index, faiss.IndexIVF):
            lists: Any = index.invlists
            ids = [
                faiss.rev_swig_ptr(lists.get_ids(k), lists.list_size(k)).copy()
                for k in range(index.nlist)
                if lists.list_size(k)
            ]
            return np.concatenate(ids) if ids else np.zeros(0, np.int64)
        return np.arange(index.ntotal, dtype=np.int64)

    def _read_texts(self) -> Texts | None:
        if self._texts is None and self.texts_file is not None and self.texts_file.exists():
            has_ids = self.index is not None and isinstance(faiss.downcast_index(self.index), faiss.IndexIDMap)
            self._texts = read_texts(self.texts_file, self.url, has_ids)
        return self._texts

    def describe(self) -> Description:
        with _translate_errors(self.url):
            texts = self._read_texts()
        kind: IdType = "integer" if texts is None or texts.ids is None else infer_id_type(texts.ids)
        fields = Fields(texts.id if texts else None, texts.text if texts else None, "vector", "payload")
        count = self.index.ntotal if self.index is not None else 0
        return Description(str(self.url), count, self.width, {}, self.metric, kind, fields, ("vector",))

    def read(
        self, columns: Sequence[Column] = COLUMNS, batch_rows: int = 1000, after: Cursor = None
    ) -> Iterator[Chunk]:
        check_columns(columns, batch_rows)
        if self.index is None:
            return
        keys = self._ids()
        order = np.argsort(keys, kind="stable")
        vectors = _ExactVectors(self.index, str(self.url)) if "vector" in columns else None
        texts = self._read_texts()
        row_by_key = self._match_rows(texts, keys)
        start = 0 if after is None else int(np.searchsorted(keys[order], after, side="right"))
        for first in range(start, len(order), batch_rows):
            positions = order[first : first + batch_rows]
            numbers = [int(key) for key in keys[positions]]
            rows = [row_by_key.get(key) for key in numbers]
            batch = make_record_batch(
                columns,
                _select(texts.ids if texts else None, rows, numbers),
                _select(texts.texts if texts else None, rows, None),
                vectors.take(positions) if vectors else (),
                _select(texts.payloads if texts else None, rows, None),
                where=str(self.url),
            )
            yield Chunk(batch, numbers[-1])

    def _match_rows(self, texts: Texts | None, keys: Int64[np.ndarray, " n"]) -> dict[int, int]:
        """Map each of FAISS's integer ids to a row of the texts."""
        if texts is None:
            return {}
        if texts.keys is not None:
            return {int(key): row for row, key in enumerate(texts.keys)}
        if len(texts.texts) < len(keys):
            raise BadInput(
                f"{self.texts_file} has {len(texts.texts)} rows, but {self.url.location} has {len(keys)} vectors. "
                "Name the texts of this index: ?texts="
            )
        return dict(zip(range(len(texts.texts)), range(len(texts.texts)), strict=True))

    def write(self, rows: Any) -> None:
        check_rows(rows, self.needs, self.width, str(self.url))
        keys = np.array(self._keys(rows.column("id").to_pylist()), np.int64)
        if self._index_to_fill is None:
            self._index_to_fill = self._open_for_writing()
        self._has_unsaved_rows = True
        self._index_to_fill.remove_ids(keys)
        self._index_to_fill.add_with_ids(vectors_to_numpy(rows), keys)
        if self.owns_texts:
            names = ["id", "text", "metadata", KEY]
            columns = [rows.column("id"), rows.column("text"), rows.column("payload"), pa.array(keys)]
            self._new_texts.append(pa.table(columns, names))
        self.width = rows.column("vector").type.list_size

    def _open_for_writing(self) -> Any:
        """Return an index with ids that can be filled.

        Raises:
            BadInput: Rows of the index cannot be replaced.
        """
        if self.index is None:
            assert self.width is not None
            flat = faiss.IndexFlatL2 if self.metric == "euclidean" else faiss.IndexFlatIP
            return faiss.IndexIDMap(flat(self.width))
        index = faiss.downcast_index(self.index)
        if isinstance(index, faiss.IndexFlat) and self._is_addressed_by_position():
            with_ids = faiss.IndexIDMap(type(index)(index.d))
            with_ids.add_with_ids(index.reconstruct_n(0, index.ntotal), np.arange(index.ntotal))
            return with_ids
        inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else None
        if not isinstance(inner, faiss.IndexFlat):
            raise BadInput(
                f"{self.url}: rows can be replaced only in an IndexIDMap over a flat index, not in "
                f"{type(inner or index).__name__}. Write to a new file."
            )
        return self.index

    def _keys(self, ids: Sequence[str]) -> list[int]:
        """Return FAISS's integer ids: those in the texts, else the id itself if it is an integer, else its hash."""
        texts = None if self.owns_texts else self._read_texts()
        if texts is None:
            return [int(i) if i.isdecimal() and len(i) < 19 else _hash(i) for i in ids]
        if not self._known:
            numbers = range(len(texts.texts)) if texts.keys is None else texts.keys
            names = texts.ids if texts.ids is not None else [str(n) for n in numbers]
            self._known = dict(zip(names, map(int, numbers), strict=True))
        unknown = next((i for i in ids if i not in self._known), None)
        if unknown is not None:
            raise BadInput(f"{self.texts_file} has no row {unknown!r}, so it cannot be written to {self.url}.")
        return [self._known[i] for i in ids]

    def flush(self) -> None:
        """Write the index and its texts. The texts are first: an index without texts for its ids would be damaged."""
        if not self._has_unsaved_rows:
            return
        with _translate_errors(self.url):
            self.url.path.parent.mkdir(parents=True, exist_ok=True)
            if self._new_texts:
                self._write_texts()
            index = self._index_to_fill
            with write_atomically(self.url.path) as stream:
                written = _to_flat(index) if self._is_addressed_by_position() else index
                faiss.write_index(written, faiss.PyCallbackIOWriter(stream.write))  # pyright: ignore[reportAttributeAccessIssue]
            self.index, self._texts, self._has_unsaved_rows = written, None, False

    def _is_addressed_by_position(self) -> bool:
        """Whether the order of the texts identifies the rows, so that the index must keep it."""
        texts = None if self.owns_texts else self._read_texts()
        return texts is not None and texts.keys is None

    def _write_texts(self) -> None:
        """Add the new texts to the file. Of several rows with one key, the last one counts."""
        assert self.texts_file is not None
        old = [pq.read_table(self.texts_file)] if self.texts_file.exists() else []
        table = pa.concat_tables([*old, *self._new_texts])
        keys = table.column(KEY).to_numpy()
        _, from_end = np.unique(keys[::-1], return_index=True)
        if len(from_end) < len(keys):
            table = table.take(pa.array(np.sort(len(keys) - 1 - from_end)))
        with write_atomically(self.texts_file) as stream:
            pq.write_table(table.replace_schema_metadata({_OWNER: self.url.path.name}), stream)
        self._new_texts = []

    def create_sibling(self, name: str, width: int, metric: Metric | None = None) -> "FaissStore":
        path = self.url.path.with_name(name)
        path = path if path.suffix else path.with_suffix(self.url.path.suffix)
        url = self.url.copy_with(location=str(path), texts=str(self.texts_file) if self.texts_file else None)
        return open_store(url, Layout(width, metric or self.metric))

    def publish(self, public: str) -> Published:
        new, path = self.url.path, self.url.path.with_name(public)
        old = path.with_name(f"{path.stem}-before-{new.stem}{path.suffix}")
        with _translate_errors(self.url):
            if new.exists() and new != path:
                if path.exists():
                    os.replace(path, old)
                os.replace(new, path)
        return Published(public, new.name, old.name if old.exists() else None)

    def unpublish(self, published: Published) -> None:
        path, new = self.url.path.with_name(published.public), self.url.path.with_name(published.current)
        old = self.url.path.with_name(published.previous) if published.previous else None
        with _translate_errors(self.url):
            if not new.exists() and path.exists():
                os.replace(path, new)
            if old and old.exists() and not path.exists():
                os.replace(old, path)

    def close(self) -> None:
        self.index = self._index_to_fill = self._texts = None


def _owner(texts: Path) -> str | None:
    """Return the name of the index for which this module wrote a file of texts; None for other files."""
    if texts.suffix != ".parquet" or not texts.exists():
        return None
    return (pq.read_schema(texts).metadata or {}).get(_OWNER, b"").decode() or None


class _ExactVectors:
    """The exact vectors of an index, by position.

    Raises:
        BadInput: The index stores approximations.
    """

    def __init__(self, index: Any, where: str) -> None:
        index = faiss.downcast_index(index)
        if isinstance(index, faiss.IndexIDMap):
            index = faiss.downcast_index(index.index)
        if isinstance(index, faiss.IndexHNSW):
            index = faiss.downcast_index(index.storage)
        half = isinstance(index, faiss.IndexScalarQuantizer) and index.sq.qtype == faiss.ScalarQuantizer.QT_fp16
        if isinstance(index, faiss.IndexIVFFlat):
            self.values: Any = _ivf_vectors(index)
        elif isinstance(index, faiss.IndexFlat) or half:
            self.values = None
        else:
            raise BadInput(
                f"{where} is an {type(index).__name__}, which keeps only an approximation of each vector: a fit would "
                "learn the quantization errors. Use a flat index, or the original vectors."
            )
        self.index = index

    def take(self, positions: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n d"]:
        if self.values is not None:
            return self.values[positions]
        first, n = int(positions[0]), len(positions)
        if np.array_equal(positions, np.arange(first, first + n)):
            return self.index.reconstruct_n(first, n)
        return np.stack([self.index.reconstruct(int(position)) for position in positions])


def _ivf_vectors(index: Any) -> Float32[np.ndarray, "n d"]:
    """Return the vectors of an IndexIVFFlat, in storage order."""
    lists = index.invlists
    blocks = [
        faiss.rev_swig_ptr(lists.get_codes(k), lists.list_size(k) * index.code_size).view(np.float32).copy()
        for k in range(index.nlist)
        if lists.list_size(k)
    ]
    return np.concatenate(blocks).reshape(-1, index.d) if blocks else np.zeros((0, index.d), np.float32)


def _to_flat(index: Any) -> Any:
    """Return a flat index in the order of the ids if they are 0, 1, ..., n - 1, else the index unchanged."""
    keys = faiss.vector_to_array(index.id_map)
    order = np.argsort(keys)
    if not np.array_equal(keys[order], np.arange(len(keys))):
        return index
    flat = faiss.downcast_index(index.index)
    ordered = type(flat)(index.d)
    ordered.add(flat.reconstruct_n(0, len(keys))[order])
    return ordered


def _select(values: Sequence[Any] | None, rows: Sequence[int | None], defaults: Sequence[Any] | None) -> list[Any]:
    """Return the value of each row, or its default (or None) if the row is None."""
    fallback = defaults if defaults is not None else [None] * len(rows)
    if values is None:
        return list(fallback)
    return [default if row is None else values[row] for row, default in zip(rows, fallback, strict=True)]


def _hash(i: str) -> int:
    """Return 63 bits for an id that is not an integer."""
    return int.from_bytes(blake2b(i.encode(), digest_size=8).digest(), "little") >> 1


@contextmanager
def _translate_errors(url: StoreUrl) -> Iterator[None]:
    """Translate FAISS's errors, which contain its source lines, into one sentence each."""
    try:
        yield
    except PermissionError as error:
        raise StoreUnavailable(f"{url.location} cannot be written: {error}. Make its folder writable.") from error
    except RuntimeError as error:
        raise BadInput(f"{url.location} is not a FAISS index, or is damaged.") from error
