"""FAISS index files with the texts beside them: `faiss:docs.faiss?texts=docs.parquet`.

Rows are read in the order of FAISS's own numbers. An index is one file, so written rows wait in `<index>.parts`, each
batch a file, until `flush` puts them into the index. A sibling is a new index over the same texts; it is published by
renaming files. Only exact vectors are read: product and scalar quantization keep less than was put in.
"""

import os
import shutil
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
from ea_jax.integrations.stores.files import replace_file
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
from ea_jax.integrations.stores.rows import check_columns, check_rows, check_width, id_type_of, record_batch, vectors_of
from ea_jax.integrations.stores.urls import StoreUrl

_OWNER = b"faiss_index"


def open_store(url: StoreUrl, create: Layout | None = None) -> "FaissStore":
    """Open an index file; `opening.open_store` documents the arguments."""
    if url.path.suffix in (".pkl", ".pickle"):
        raise BadInput(f"{url.location} is a pickle and no index. LangChain's index is the .faiss file beside it.")
    if create is None and not url.path.exists():
        raise BadInput(f"{url.location} is not there.")
    with _plain_errors(url):
        store = FaissStore(url, create)
    if create:
        check_width(create.width, store.width, str(url))
    return store


class FaissStore(Store):
    """An index file and its file of texts."""

    def __init__(self, url: StoreUrl, create: Layout | None) -> None:
        self.url = url
        self.parts = url.path.with_name(f"{url.path.name}.parts")
        self.metric: Metric = create.metric if create else "dot"
        self.index: Any = None
        self.width: int | None = create.width if create else None
        if url.path.exists():
            self._load()
        self.texts_file = find_texts(url)
        if self.texts_file is None and create:
            self.texts_file = url.path.with_suffix(".parquet")
        # The texts of another index stay as they are, and a sibling shares them.
        self.carries = self.texts_file is not None and _owner(self.texts_file) == (
            url.path.name if self.texts_file.exists() or create is None else None
        )
        self._texts: Texts | None = None

    @property
    def needs(self) -> tuple[Column, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """An index over texts that are there already needs only the vectors."""
        return COLUMNS if self.carries else ("id", "vector")

    def _load(self) -> None:
        self.index = faiss.read_index(str(self.url.path))
        self.width = self.index.d
        self.metric = "dot" if self.index.metric_type == faiss.METRIC_INNER_PRODUCT else "euclidean"

    def _ids(self) -> Int64[np.ndarray, " n"]:
        """FAISS's numbers of the rows, in storage order."""
        index = faiss.downcast_index(self.index)
        if isinstance(index, faiss.IndexIDMap):
            return faiss.vector_to_array(index.id_map)
        if isinstance(index, faiss.IndexIVF):
            lists: Any = index.invlists
            found = [
                faiss.rev_swig_ptr(lists.get_ids(k), lists.list_size(k)).copy()
                for k in range(index.nlist)
                if lists.list_size(k)
            ]
            return np.concatenate(found) if found else np.zeros(0, np.int64)
        return np.arange(index.ntotal, dtype=np.int64)

    def _read_texts(self) -> Texts | None:
        if self._texts is None and self.texts_file is not None and self.texts_file.exists():
            numbered = self.index is not None and isinstance(faiss.downcast_index(self.index), faiss.IndexIDMap)
            self._texts = read_texts(self.texts_file, self.url, numbered)
        return self._texts

    def describe(self) -> Description:
        with _plain_errors(self.url):
            texts = self._read_texts()
        kind: IdType = "integer" if texts is None or texts.ids is None else id_type_of(texts.ids)
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
        vectors = _Vectors(self.index, str(self.url)) if "vector" in columns else None
        texts = self._read_texts()
        rows_of = self._rows_of(texts, keys)
        start = 0 if after is None else int(np.searchsorted(keys[order], after, side="right"))
        for first in range(start, len(order), batch_rows):
            some = order[first : first + batch_rows]
            numbers = [int(key) for key in keys[some]]
            rows = [rows_of.get(key) for key in numbers]
            batch = record_batch(
                columns,
                _picked(texts.ids if texts else None, rows, numbers),
                _picked(texts.texts if texts else None, rows, None),
                vectors.take(some) if vectors else (),
                _picked(texts.payloads if texts else None, rows, None),
                where=str(self.url),
            )
            yield Chunk(batch, numbers[-1])

    def _rows_of(self, texts: Texts | None, keys: Int64[np.ndarray, " n"]) -> dict[int, int]:
        """Which row of the texts belongs to each of FAISS's numbers."""
        if texts is None:
            return {}
        if texts.keys is not None:
            return {int(key): row for row, key in enumerate(texts.keys)}
        if len(texts.texts) < len(keys):
            raise BadInput(
                f"{self.texts_file} has {len(texts.texts)} rows, but {self.url.location} has {len(keys)} vectors. "
                "Give the texts of this index."
            )
        return dict(zip(range(len(texts.texts)), range(len(texts.texts)), strict=True))

    def write(self, rows: Any) -> None:
        check_rows(rows, self.needs, self.width, str(self.url))
        ids = rows.column("id").to_pylist()
        with _plain_errors(self.url):
            self._check_writable()
            self.parts.mkdir(parents=True, exist_ok=True)
            keys = pa.array(self._keys(ids), pa.int64())
            table = pa.Table.from_batches([rows.select(list(self.needs))]).append_column(KEY, keys)
            number = max((int(path.stem) for path in self.parts.glob("*.parquet")), default=-1) + 1
            replace_file(self.parts / f"{number:09d}.parquet", lambda path: pq.write_table(table, path))
        self.width = rows.column("vector").type.list_size

    def _check_writable(self) -> None:
        index = None if self.index is None else faiss.downcast_index(self.index)
        inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else None
        if index is not None and not isinstance(inner, faiss.IndexFlat):
            raise BadInput(
                f"{self.url}: rows are replaced only in an IndexIDMap over a flat index, and this is "
                f"{type(inner or index).__name__}. Write to a new file."
            )

    def _keys(self, ids: Sequence[str]) -> list[int]:
        """FAISS's numbers for rows of some ids: those of the texts, the integer ids, or else a hash."""
        texts = self._read_texts()
        if texts is not None and not self.carries:
            numbers = range(len(texts.texts)) if texts.keys is None else texts.keys
            names = texts.ids if texts.ids is not None else [str(n) for n in numbers]
            if not hasattr(self, "_known"):
                self._known = dict(zip(names, map(int, numbers), strict=True))
            unknown = next((i for i in ids if i not in self._known), None)
            if unknown is not None:
                raise BadInput(f"{self.texts_file} has no row {unknown!r}, which is to be written to {self.url}.")
            return [self._known[i] for i in ids]
        return [int(i) if i.isdecimal() and len(i) < 19 else _hash(i) for i in ids]

    def flush(self) -> None:
        """Put the rows that wait into the index and the texts; of rows with one id the last."""
        with _plain_errors(self.url):
            parts = sorted(self.parts.glob("*.parquet"))
            if not parts:
                return
            last: dict[int, tuple[int, int]] = {}
            for k, path in enumerate(parts):
                keys = pq.read_table(path, columns=[KEY]).column(0).to_numpy()
                last |= {int(key): (k, row) for row, key in enumerate(keys)}
            index = self._index_to_fill(last)
            texts = []
            for k, path in enumerate(parts):
                table = pq.read_table(path)
                keep = [row for key, row in _rows_kept(table, last, k)]
                table = table.take(pa.array(keep, pa.int64()))
                if not keep:
                    continue
                index.add_with_ids(vectors_of(table.combine_chunks().to_batches()[0]), table.column(KEY).to_numpy())
                if self.carries:
                    texts.append(table.drop_columns(["vector"]).rename_columns(["id", "text", "metadata", KEY]))
            if self.carries:
                self._write_texts(pa.concat_tables(texts), last)
            made = _as_plain(index) if self._is_plain() else index
            replace_file(self.url.path, lambda path: faiss.write_index(made, str(path)))
            shutil.rmtree(self.parts)
            self._load()
            self._texts = None

    def _is_plain(self) -> bool:
        """Whether the texts say by their order which row is which, so that the index has to keep it, too."""
        texts = self._read_texts()
        return not self.carries and texts is not None and texts.keys is None

    def _index_to_fill(self, last: dict[int, tuple[int, int]]) -> Any:
        if self.index is not None:
            index: Any = faiss.read_index(str(self.url.path))
            index.remove_ids(np.fromiter(last, np.int64))
            return index
        assert self.width is not None
        flat = faiss.IndexFlatL2 if self.metric == "euclidean" else faiss.IndexFlatIP
        return faiss.IndexIDMap(flat(self.width))

    def _write_texts(self, new: pa.Table, last: dict[int, tuple[int, int]]) -> None:
        assert self.texts_file is not None
        if self.texts_file.exists():
            old = pq.read_table(self.texts_file)
            keep = [row for row, key in enumerate(old.column(KEY).to_pylist()) if key not in last]
            new = pa.concat_tables([old.take(pa.array(keep, pa.int64())), new])
        new = new.replace_schema_metadata({_OWNER: self.url.path.name})
        replace_file(self.texts_file, lambda path: pq.write_table(new, path))

    def create_sibling(self, name: str, width: int, metric: Metric | None = None) -> "FaissStore":
        path = self.url.path.with_name(name)
        path = path if path.suffix else path.with_suffix(self.url.path.suffix)
        url = self.url.renamed(location=str(path), texts=str(self.texts_file) if self.texts_file else None)
        return open_store(url, Layout(width, metric or self.metric))

    def publish(self, public: str) -> Published:
        new, path = self.url.path, self.url.path.with_name(public)
        old = path.with_name(f"{path.stem}-before-{new.stem}{path.suffix}")
        with _plain_errors(self.url):
            if new.exists() and new != path:
                if path.exists():
                    os.replace(path, old)
                os.replace(new, path)
        return Published(public, new.name, old.name if old.exists() else None)

    def unpublish(self, published: Published) -> None:
        path, new = self.url.path.with_name(published.public), self.url.path.with_name(published.current)
        old = self.url.path.with_name(published.previous) if published.previous else None
        with _plain_errors(self.url):
            if not new.exists() and path.exists():
                os.replace(path, new)
            if old and old.exists() and not path.exists():
                os.replace(old, path)

    def close(self) -> None:
        self.index = self._texts = None


def _owner(texts: Path) -> str | None:
    """The name of the index with which a file of texts was written here; None for other files."""
    if texts.suffix != ".parquet" or not texts.exists():
        return None
    return (pq.read_schema(texts).metadata or {}).get(_OWNER, b"").decode() or None


class _Vectors:
    """The exact vectors of an index, by position.

    Raises:
        BadInput: The index keeps no exact vectors.
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
                "learn the quantization errors. Use a flat index, or the vectors it was built from."
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
    """The vectors of an IndexIVFFlat, list by list."""
    lists = index.invlists
    found = [
        faiss.rev_swig_ptr(lists.get_codes(k), lists.list_size(k) * index.code_size).view(np.float32).copy()
        for k in range(index.nlist)
        if lists.list_size(k)
    ]
    return np.concatenate(found).reshape(-1, index.d) if found else np.zeros((0, index.d), np.float32)


def _rows_kept(table: pa.Table, last: dict[int, tuple[int, int]], k: int) -> list[tuple[int, int]]:
    """The rows of a part that no later part replaces."""
    keys = table.column(KEY).to_pylist()
    return [(key, row) for row, key in enumerate(keys) if last[key] == (k, row)]


def _as_plain(index: Any) -> Any:
    """A flat index whose rows lie in the order of their numbers, if these are all there; else the index as it is."""
    keys = faiss.vector_to_array(index.id_map)
    order = np.argsort(keys)
    if not np.array_equal(keys[order], np.arange(len(keys))):
        return index
    flat = faiss.downcast_index(index.index)
    plain = type(flat)(index.d)
    plain.add(flat.reconstruct_n(0, len(keys))[order])
    return plain


def _picked(values: Sequence[Any] | None, rows: Sequence[int | None], otherwise: Sequence[Any] | None) -> list[Any]:
    """The values of rows; another, or None, where there is no such row."""
    rest = otherwise if otherwise is not None else [None] * len(rows)
    if values is None:
        return list(rest)
    return [other if row is None else values[row] for row, other in zip(rows, rest, strict=True)]


def _hash(i: str) -> int:
    """A number of 63 bits for an id that is no number."""
    return int.from_bytes(blake2b(i.encode(), digest_size=8).digest(), "little") >> 1


@contextmanager
def _plain_errors(url: StoreUrl) -> Iterator[None]:
    """Say in one sentence what FAISS says with its own file and line."""
    try:
        yield
    except PermissionError as error:
        raise StoreUnavailable(f"{url.location} cannot be written: {error}. Make its folder writable.") from error
    except RuntimeError as error:
        raise BadInput(f"{url.location} is no FAISS index, or a damaged one.") from error
