"""LanceDB: a local folder, object storage or LanceDB Cloud (`lancedb:db://name#table`, key in LANCEDB_API_KEY).

Rows are read in storage order, from the latest version of the table at the start. Cursors record the version, and
expire when it is cleaned up. A sibling is a further column. Its rows are written to a staging table, which `flush`
merges, since each merge rewrites the column. Two renames in one commit publish it.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from ea_jax.errors import BadInput, Conflict, EaJaxError, StoreUnavailable
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
    ID_FIELDS,
    PAYLOAD_FIELDS,
    TEXT_FIELDS,
    check_columns,
    check_rows,
    check_width,
    dump_payload,
    make_record_batch,
    normalize_payload,
    parse_integer_ids,
    parse_payload,
    pick_field,
    pick_vector,
    unknown_collection,
)
from ea_jax.integrations.stores.urls import StoreUrl

# By default, a read runs 2 GB ahead, and the files of each write stay in a cache of 1 GB.
_BUFFER_BYTES = 32 << 20
os.environ.setdefault("LANCE_DEFAULT_IO_BUFFER_SIZE", str(_BUFFER_BYTES))

import lancedb  # noqa: E402 (reads the environment)

_METRICS: dict[str, Metric] = {"cosine": "cosine", "dot": "dot", "l2": "euclidean"}


def open_store(url: StoreUrl, create: Layout | None = None) -> "LanceDBStore":
    """Open a table and one of its vector columns; see `opening.open_store`."""
    if create is None and not url.is_remote and not url.path.is_dir():
        raise BadInput(f"{url.location} is not a folder of LanceDB.")
    with _translate_errors(url):
        session = None if url.is_remote else lancedb.Session(_BUFFER_BYTES, _BUFFER_BYTES)
        database = lancedb.connect(url.location if url.is_remote else str(url.path), session=session)
        known = _tables(database)
        if url.name not in known:
            if create is None:
                raise unknown_collection("table", url.name, known, url.location)
            database.create_table(url.name, schema=_schema(url, create), exist_ok=True)
        table = database.open_table(url.name)
        if create and url.vector is not None and url.vector not in table.schema.names:
            table.add_columns(pa.field(url.vector, pa.list_(pa.float32(), create.width)))
        store = LanceDBStore(url, database, table)
    if create:
        check_width(create.width, store.width, str(url))
    return store


class LanceDBStore(Store):
    """A table and one of its vector columns."""

    def __init__(self, url: StoreUrl, database: Any, table: Any) -> None:
        where = str(url)
        self.url = url
        self.database: Any = database
        self.table: Any = table
        schema: pa.Schema = table.schema
        self.vectors = tuple(field.name for field in schema if _is_vector(field.type))
        self.vector = pick_vector(url.vector, self.vectors, where)
        others = [name for name in schema.names if name not in self.vectors]
        self.id = pick_field("id", url.id, ID_FIELDS, others, where)
        self.text = pick_field("text", url.text, TEXT_FIELDS, others, where)
        self.payload = pick_field("payload", url.payload, PAYLOAD_FIELDS, others, where)
        self.others = [name for name in others if name not in (self.id, self.text, self.payload)]
        kind = schema.field(self.vector).type
        self.declared = pa.types.is_fixed_size_list(kind)
        self.width: int | None = kind.list_size if self.declared else None
        self.other_widths: dict[int, int] = {}
        if not self.declared:
            self._count_widths()
        self.integer = self.id is None or pa.types.is_integer(schema.field(self.id).type)
        self._known: _IdSet | None = None

    def _count_widths(self) -> None:
        counts: dict[int, int] = {}
        for batch in self.table.search().select([self.vector]).to_batches(4096):
            lengths = batch.column(0).drop_null().value_lengths().to_numpy(zero_copy_only=False)
            for width, n in zip(*np.unique(lengths, return_counts=True), strict=True):
                counts[int(width)] = counts.get(int(width), 0) + int(n)
        ordered = sorted(counts, key=lambda width: -counts[width])
        self.width = ordered[0] if ordered else None
        self.other_widths = {width: counts[width] for width in ordered[1:]}

    @property
    def needs(self) -> tuple[Column, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A further vector column needs no texts: its rows exist already."""
        return ("id", "vector") if len(self.vectors) > 1 else COLUMNS

    def describe(self) -> Description:
        with _translate_errors(self.url):
            self.table.checkout_latest()
            count = self.table.count_rows()
            if not self.declared:
                self._count_widths()
            metric = None
            for index in self.table.list_indices():
                if index.columns == [self.vector]:
                    statistics = self.table.index_stats(index.name)
                    metric = _METRICS.get(str(statistics.distance_type).lower()) if statistics else None
        kind: IdType = "integer" if self.integer else "string"
        fields = Fields(self.id, self.text, self.vector, self.payload)
        return Description(str(self.url), count, self.width, self.other_widths, metric, kind, fields, self.vectors)

    def read(
        self, columns: Sequence[Column] = COLUMNS, batch_rows: int = 1000, after: Cursor = None
    ) -> Iterator[Chunk]:
        check_columns(columns, batch_rows)
        names = [self.id] if self.id else []
        names += [self.text] if self.text and "text" in columns else []
        names += [self.vector] if "vector" in columns or not names else []
        names += [name for name in (self.payload, *self.others) if name] if "payload" in columns else []
        with _translate_errors(self.url):
            table = self.database.open_table(self.url.name)
            version, offset = (table.version, 0) if after is None else (after["version"], after["offset"])
            try:
                table.checkout(version)
            except Exception as error:
                raise BadInput(
                    f"{self.url}: version {version} of the table was cleaned up after the cursor was made. "
                    "Start again without the cursor."
                ) from error
            batches = iter(table.search().select(list(dict.fromkeys(names))).offset(offset).to_batches(batch_rows))
        while True:
            with _translate_errors(self.url):
                batch = next(batches, None)
            if batch is None:
                return
            if not len(batch):
                continue
            rows = self._rows(batch, columns, offset)
            offset += len(rows)
            yield Chunk(rows, {"version": version, "offset": offset})

    def _rows(self, batch: pa.RecordBatch, columns: Sequence[Column], offset: int) -> pa.RecordBatch:
        n = len(batch)
        ids = batch.column(self.id).to_pylist() if self.id else range(offset, offset + n)
        texts = batch.column(self.text).to_pylist() if self.text and "text" in columns else [None] * n
        payloads = self._payloads(batch) if "payload" in columns else ()
        vectors = _numpy(batch.column(self.vector)) if "vector" in columns else ()
        return make_record_batch(columns, ids, texts, vectors, payloads, where=str(self.url))

    def _payloads(self, batch: pa.RecordBatch) -> list[str | None]:
        payload = batch.column(self.payload).to_pylist() if self.payload else [None] * len(batch)
        if not self.others and (not self.payload or _is_string(batch.schema.field(self.payload).type)):
            return [normalize_payload(text) for text in payload]
        others = batch.select(self.others).to_pylist() if self.others else [{}] * len(batch)
        return [dump_payload({**parse_payload(a), **b}) for a, b in zip(payload, others, strict=True)]

    def write(self, rows: Any) -> None:
        where = str(self.url)
        check_rows(rows, self.needs, self.width, where)
        if self.id is None:
            raise BadInput(f"{where} has no id column, so rows cannot be replaced. Name one: ?id=")
        schema: pa.Schema = self.table.schema
        ids = rows.column("id").to_pylist()
        keys = parse_integer_ids(ids, where) if self.integer else ids
        values = {self.id: pa.array(keys, schema.field(self.id).type), self.vector: self._vectors(rows, schema)}
        if "text" in self.needs:
            struct = self.payload and not _is_string(schema.field(self.payload).type)
            if self.others or struct:
                names = ", ".join(filter(None, [*self.others, self.payload]))
                raise BadInput(
                    f"{where} has further columns ({names}), which would stay empty. Write to a new column: ?vector="
                )
            for field, column in ((self.text, "text"), (self.payload, "payload")):
                if field is not None:
                    values[field] = rows.column(column)
                elif rows.column(column).null_count < len(rows):
                    raise BadInput(f"{where} has no column for the rows' {column}. Name one: ?{column}=")
        data = pa.table(values)
        with _translate_errors(self.url):
            table = self.table
            if "text" not in self.needs:
                table = self.database.create_table(self._staging_name(), schema=data.schema, exist_ok=True)
            if self._known is None:
                self._known = _IdSet()
                for batch in table.search().select([self.id]).to_batches(8192):
                    self._known.add(batch.column(0).to_pylist())
            if self._known.add(keys):
                merge = table.merge_insert(self.id).when_matched_update_all().when_not_matched_insert_all()
                merge.execute(data)
            else:
                table.add(data)  # a merge reads all ids of the table

    def _vectors(self, rows: pa.RecordBatch, schema: pa.Schema) -> pa.Array:
        """Cast the vectors to the type of the column."""
        return rows.column("vector").cast(schema.field(self.vector).type)

    def _staging_name(self) -> str:
        """Name of the staging table for rows of a further column."""
        return f"{self.url.name}.{self.vector}.waiting"

    def flush(self) -> None:
        """Merge the staging table into the column."""
        with _translate_errors(self.url):
            if self._staging_name() in _tables(self.database):
                staging = self.database.open_table(self._staging_name())
                before = self.table.count_rows(f"{self.vector} is not null")
                batches = staging.search().to_batches(4096)
                self.table.merge_insert(self.id).when_matched_update_all().execute(batches)
                self.table.checkout_latest()
                filled, written = self.table.count_rows(f"{self.vector} is not null"), staging.count_rows()
                self.database.drop_table(self._staging_name())
                self._known = None
                if filled < max(before, written):
                    raise BadInput(f"{self.url}: the table lacks the ids of {written - filled} written rows.")
            self.table.optimize()

    def create_sibling(self, name: str, width: int, metric: Metric | None = None) -> "LanceDBStore":
        url = self.url.copy_with(vector=name, id=self.id, text=self.text, payload=self.payload)
        return open_store(url, Layout(width, metric or "cosine"))

    def check_public(self, public: str, current: str) -> None:
        with _translate_errors(self.url):
            schema = self._latest()
        if public in schema.names and not _is_vector(schema.field(public).type):
            raise Conflict(f"{self.url}: the column {public!r} does not hold vectors and will not be replaced.")

    def publish(self, public: str) -> Published:
        current, old = self.vector, f"{public}_before_{self.vector}"
        self.check_public(public, current)
        with _translate_errors(self.url):
            schema = self._latest()
            if current in schema.names and current != public:
                steps = [{"path": current, "rename": public}]
                if public in schema.names:
                    steps.insert(0, {"path": public, "rename": old})
                self.table.alter_columns(*steps)
            schema = self._latest()
        return Published(public, current, old if old in schema.names else None)

    def unpublish(self, published: Published) -> None:
        public, current, previous = published
        with _translate_errors(self.url):
            names = self._latest().names
            if current not in names and public in names:
                steps = [{"path": public, "rename": current}]
                if previous in names:
                    steps.append({"path": str(previous), "rename": public})
                self.table.alter_columns(*steps)

    def _latest(self) -> pa.Schema:
        self.table.checkout_latest()
        return self.table.schema

    def close(self) -> None:
        self.table = self.database = None


class _IdSet:
    """Hashes of the ids in a table, sorted: 8 bytes an id. An id with the hash of another counts as known."""

    def __init__(self) -> None:
        self.hashes = np.zeros(0, np.int64)

    def add(self, ids: Sequence[Any]) -> bool:
        """Add ids, and return whether one of them was known."""
        new = np.sort(np.array([hash(i) for i in ids], np.int64))
        places = np.searchsorted(self.hashes, new)
        inside = places < len(self.hashes)
        is_known = bool((self.hashes[places[inside]] == new[inside]).any())
        self.hashes = np.insert(self.hashes, places, new)
        return is_known


def _tables(database: Any) -> list[str]:
    names: list[str] = []
    token = None
    while True:
        page = database.list_tables(page_token=token, limit=1000)
        names += page.tables
        token = page.page_token
        if not token:
            return names


def _schema(url: StoreUrl, layout: Layout) -> pa.Schema:
    return pa.schema(
        {
            url.id or "id": pa.int64() if layout.id_type == "integer" else pa.string(),
            url.text or "text": pa.string(),
            url.payload or "metadata": pa.string(),
            url.vector or "vector": pa.list_(pa.float32(), layout.width),
        }
    )


def _is_vector(kind: pa.DataType) -> bool:
    return (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind)) and pa.types.is_floating(kind.value_type)


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _numpy(column: pa.Array) -> Any:
    """Return an array [n, d] if the width is declared and no vector is missing, else a list of arrays or None."""
    if pa.types.is_fixed_size_list(column.type) and not column.null_count:
        values = column.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(len(column), column.type.list_size)
    return [None if not v.is_valid else v.values.to_numpy(zero_copy_only=False) for v in column]


@contextmanager
def _translate_errors(url: StoreUrl) -> Iterator[None]:
    """Translate the client's errors, which are built-in ones with many lines, into one sentence each."""
    try:
        yield
    except EaJaxError:
        raise
    except (RuntimeError, OSError, ValueError) as error:
        reason = re.sub(r",? \S+\.rs:\d+:\d+", "", str(error).strip().splitlines()[0])  # places in its source code
        raise StoreUnavailable(f"{url}: LanceDB failed: {reason}. The folder may be damaged or read-only.") from error
