"""sqlite-vec: a `vec0` table, or an ordinary table whose vectors are float32 blobs, as LangChain writes.

Rows are read by row number. A sibling is a new `vec0` table, published by a copy in one transaction, since a `vec0`
table cannot be renamed. The `vec0` table next to LangChain's table is not changed.

Many Python builds cannot load SQLite extensions; for those, pysqlite3 replaces sqlite3.
"""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import sqlite_vec

from ea_jax.errors import BadInput, Conflict, MissingDependency, StoreUnavailable
from ea_jax.integrations.stores.protocol import (
    COLUMNS,
    Chunk,
    Column,
    Cursor,
    Description,
    Fields,
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
    vectors_to_numpy,
)
from ea_jax.integrations.stores.urls import StoreUrl

_METRICS: dict[str, Metric] = {"cosine": "cosine", "l2": "euclidean"}
_VECTOR = re.compile(r"^[\"\[`]?(\w+)[\"\]`]?\s+(float|f32|int8|bit)\s*\[\s*(\d+)\s*\]", re.IGNORECASE)
_SQL = re.compile(r"using\s+vec0\s*\((.*)\)\s*;?\s*$", re.IGNORECASE | re.DOTALL)


class Table(NamedTuple):
    """Schema of a table. `vectors` maps each vector column to its width, or None if rows may differ."""

    columns: tuple[str, ...]
    vectors: dict[str, int | None]
    key: str
    text_key: bool
    metric: Metric | None
    definition: str | None  # arguments of vec0(...); None for an ordinary table


def open_store(url: StoreUrl, create: Layout | None = None) -> "SqliteVecStore":
    """Open a table; see `opening.open_store`."""
    if create is None and not url.path.exists():
        raise BadInput(f"{url.location} does not exist.")
    with _translate_errors(url):
        connection = _connect(url)
        try:
            table = _table(connection, url.name)
            if table is None and create:
                if create.metric == "dot":
                    raise BadInput(f"{url}: sqlite-vec has no dot product. Use cosine or euclidean.")
                kind = "integer" if create.id_type == "integer" else "text"
                metric = "cosine" if create.metric == "cosine" else "l2"
                vector = f"{url.vector or 'embedding'} float[{create.width}] distance_metric={metric}"
                definition = f"{url.id or 'id'} {kind} primary key, {vector}, +{url.text or 'text'} text"
                definition += f", +{url.payload or 'metadata'} text"
                connection.execute(f"create virtual table {_quoted(url.name)} using vec0({definition})")
                table = _table(connection, url.name)
            if table is None:
                names = connection.execute("select name from sqlite_master where type = 'table'").fetchall()
                known = [name for (name,) in names if "vec0" not in name and not _is_shadow(name, names)]
                raise unknown_collection("table", url.name, known, url.location)
            store = SqliteVecStore(url, connection, table)
            if create:
                check_width(create.width, store.width, str(url))
        except BaseException:
            connection.close()
            raise
    return store


class SqliteVecStore(Store):
    """A table and one of its vector columns."""

    def __init__(self, url: StoreUrl, connection: Any, table: Table) -> None:
        where = str(url)
        self.url, self.connection, self.table = url, connection, table
        self.is_vec0 = table.definition is not None
        self.vector = pick_vector(url.vector, tuple(table.vectors), where)
        others = [name for name in table.columns if name not in table.vectors]
        self.id = url.id or table.key
        if url.id not in (None, table.key):
            raise BadInput(f"{where}: {url.id!r} cannot be the id; in SQLite that is the primary key, {table.key!r}.")
        self.text = pick_field("text", url.text, TEXT_FIELDS, others, where)
        self.payload = pick_field("payload", url.payload, PAYLOAD_FIELDS, others, where)
        self.others = [name for name in others if name not in (self.id, self.text, self.payload)]
        self.width = table.vectors[self.vector]
        self.other_widths: dict[int, int] = {}
        if self.width is None:
            self._count_widths()

    def _count_widths(self) -> None:
        column = _quoted(self.vector)
        query = f"select length({column}) / 4, count(*) from {_quoted(self.url.name)} where {column} is not null"
        counts = self.connection.execute(f"{query} group by 1 order by 2 desc").fetchall()
        if counts:
            self.width, self.other_widths = counts[0][0], dict(counts[1:])

    def describe(self) -> Description:
        with _translate_errors(self.url):
            table = f"{self.url.name}_rowids" if self.is_vec0 else self.url.name
            count = self.connection.execute(f"select count(*) from {_quoted(table)}").fetchone()[0]
            if self.table.vectors[self.vector] is None:
                self._count_widths()
        return Description(
            str(self.url),
            count,
            self.width,
            self.other_widths,
            self.table.metric,
            "string" if self.table.text_key else "integer",
            Fields(self.id, self.text, self.vector, self.payload),
            tuple(self.table.vectors),
        )

    def read(
        self, columns: Sequence[Column] = COLUMNS, batch_rows: int = 1000, after: Cursor = None
    ) -> Iterator[Chunk]:
        check_columns(columns, batch_rows)
        extra = [self.payload, *self.others] if "payload" in columns else []
        text = self.text if "text" in columns else None
        vector = self.vector if "vector" in columns else None
        fields = [self.id, *(name for name in (text, vector, *extra) if name)]
        selection = ", ".join(f"v.{_quoted(name)}" for name in fields)
        query = self._query(selection)
        while True:
            with _translate_errors(self.url):
                records = self.connection.execute(query, (-(2**63) if after is None else after, batch_rows)).fetchall()
            if not records:
                return
            after = records[-1][0]
            values = dict(zip(fields, list(zip(*records, strict=True))[1:], strict=True))
            rows = make_record_batch(
                columns,
                values[self.id],
                values[text] if text else [None] * len(records),
                [None if blob is None else np.frombuffer(blob, np.float32) for blob in values[vector]]
                if vector
                else (),
                [self._payload(row, values) for row in range(len(records))],
                where=str(self.url),
            )
            yield Chunk(rows, after)

    def _query(self, selection: str) -> str:
        name = self.url.name
        if not self.is_vec0:
            return f"select rowid, {selection} from {_quoted(name)} v where rowid > ? order by rowid limit ?"
        # A vec0 table supports full scans and single-row reads only; its rowids table has an index.
        key = f"r.{'id' if self.table.text_key else 'rowid'} = v.{_quoted(self.id)}"
        source = f"{_quoted(f'{name}_rowids')} r cross join {_quoted(name)} v on {key}"
        return f"select r.rowid, {selection} from {source} where r.rowid > ? order by r.rowid limit ?"

    def _payload(self, row: int, values: dict[str, Any]) -> str | None:
        if not self.others:
            return normalize_payload(values[self.payload][row]) if self.payload in values else None
        payload = parse_payload(values[self.payload][row]) if self.payload in values else {}
        return dump_payload({**payload, **{name: values[name][row] for name in self.others if name in values}})

    def write(self, rows: Any) -> None:
        where = str(self.url)
        check_rows(rows, self.needs, self.width, where)
        if self.others:
            raise BadInput(
                f"{where} has the columns {', '.join(self.others)}, which would stay empty. Write to a new table."
            )
        ids = rows.column("id").to_pylist()
        keys = ids if self.table.text_key else parse_integer_ids(ids, where)
        columns: dict[str, Sequence[Any]] = {self.id: keys, self.vector: [v.tobytes() for v in vectors_to_numpy(rows)]}
        for field, column in ((self.text, "text"), (self.payload, "payload")):
            if field is not None:
                columns[field] = rows.column(column).to_pylist()
            elif rows.column(column).null_count < len(rows):
                raise BadInput(f"{where} has no field for the rows' {column}. Name one: ?{column}=")
        table, names = _quoted(self.url.name), ", ".join(map(_quoted, columns))
        marks = ", ".join("?" * len(columns))
        with _translate_errors(self.url), _transaction(self.connection):
            # vec0 has no upsert
            self.connection.executemany(f"delete from {table} where {_quoted(self.id)} = ?", [(key,) for key in keys])
            values = list(zip(*columns.values(), strict=True))
            self.connection.executemany(f"insert into {table} ({names}) values ({marks})", values)

    def create_sibling(self, name: str, width: int, metric: Metric | None = None) -> "SqliteVecStore":
        url = self.url.copy_with(name=name, id=self.id, text=self.text, vector=self.vector, payload=self.payload)
        kind = "string" if self.table.text_key else "integer"
        return open_store(url, Layout(width, metric or self.table.metric or "cosine", kind))

    def check_public(self, public: str, current: str) -> None:
        if public == current:
            raise BadInput(f"{self.url}: a table cannot be published under its own name.")
        with _translate_errors(self.url):
            existing = _table(self.connection, public)
        if existing and existing.definition is None:
            raise Conflict(
                f"{self.url.location}: {public!r} is not a vec0 table and will not be replaced. "
                f"Let your application read {current!r} instead."
            )

    def publish(self, public: str) -> Published:
        current = self.url.name
        old = f"{public}_before_{current}"
        self.check_public(public, current)
        with _translate_errors(self.url), _transaction(self.connection):
            existing = _table(self.connection, public)
            if _table(self.connection, old) is None and existing:
                _copy(self.connection, public, old)
            _copy(self.connection, current, public)
            return Published(public, current, old if _table(self.connection, old) else None)

    def unpublish(self, published: Published) -> None:
        public, _, previous = published
        with _translate_errors(self.url), _transaction(self.connection):
            if previous is None:
                self.connection.execute(f"drop table if exists {_quoted(public)}")
            elif _table(self.connection, previous):
                _copy(self.connection, previous, public)
                self.connection.execute(f"drop table {_quoted(previous)}")

    def close(self) -> None:
        self.connection.close()


def _connect(url: StoreUrl) -> Any:
    """Connect and load the extension, through pysqlite3 if sqlite3 cannot load extensions."""
    module: Any = sqlite3
    if not hasattr(sqlite3.Connection, "enable_load_extension"):
        try:
            module = import_module("pysqlite3")
        except ModuleNotFoundError as error:
            raise MissingDependency(
                "This Python's sqlite3 cannot load extensions: pip install pysqlite3, or use another build of Python."
            ) from error
    connection = module.connect(str(url.path), isolation_level=None, timeout=10, check_same_thread=False)
    try:
        connection.enable_load_extension(True)
        sqlite_vec.load(connection)
        connection.enable_load_extension(False)
    except BaseException:
        connection.close()
        raise
    return connection


def _table(connection: Any, name: str) -> Table | None:
    row = connection.execute("select sql from sqlite_master where name = ? and type = 'table'", (name,)).fetchone()
    if row is None:
        return None
    columns = connection.execute(f"pragma table_xinfo({_quoted(name)})").fetchall()
    match = _SQL.search(row[0])
    if match is None:
        names = tuple(column[1] for column in columns)
        blobs = [column[1] for column in columns if column[2].upper() == "BLOB"]
        vectors = [n for n in blobs if n not in PAYLOAD_FIELDS and _looks_like_vectors(connection, name, n)]
        keys = [column for column in columns if column[5]]
        key = keys[0][1] if len(keys) == 1 else next((n for n in ID_FIELDS if n in names), "rowid")
        return Table(names, dict.fromkeys(vectors), key, _holds_text(columns, key), None, None)
    definition = match[1]
    parts = [part.strip() for part in definition.split(",")]
    widths: dict[str, int | None] = {}
    for vector in filter(None, map(_VECTOR.match, parts)):
        if vector[2].lower() in ("float", "f32"):
            widths[vector[1]] = int(vector[3])
    metric = re.search(r"distance_metric\s*=\s*(\w+)", definition, re.IGNORECASE)
    hidden = ("distance", "k", name)
    names = tuple(column[1] for column in columns if not (column[6] and column[1] in hidden))
    key = next((part.split()[0].strip("\"'`[]") for part in parts if "primary key" in part.lower()), "rowid")
    text_key = any("primary key" in part.lower() and " text " in part.lower() for part in parts)
    return Table(names, widths, key, text_key, _METRICS.get(metric[1].lower() if metric else "l2"), definition)


def _holds_text(columns: Sequence[Any], key: str) -> bool:
    return any(column[1] == key and "INT" not in column[2].upper() for column in columns)


def _looks_like_vectors(connection: Any, table: str, column: str) -> bool:
    """Whether the blobs of a column may be float32 vectors, by the length of the first one."""
    query = f"select {_quoted(column)} from {_quoted(table)} where {_quoted(column)} is not null limit 1"
    first = connection.execute(query).fetchone()
    return first is None or (isinstance(first[0], bytes) and len(first[0]) % 4 == 0)


def _is_shadow(name: str, names: Sequence[tuple[str]]) -> bool:
    """Whether a table is a shadow table of a vec0 table, or internal to SQLite."""
    return name.startswith("sqlite_") or any(
        re.fullmatch(rf"{re.escape(other)}_(info|chunks|rowids|auxiliary|vector_chunks\d+|metadata\w+)", name)
        for (other,) in names
    )


def _copy(connection: Any, source: str, target: str) -> None:
    """Replace a table by a copy of a vec0 table."""
    table = _table(connection, source)
    assert table is not None
    assert table.definition is not None
    connection.execute(f"drop table if exists {_quoted(target)}")
    connection.execute(f"create virtual table {_quoted(target)} using vec0({table.definition})")
    names = ", ".join(_quoted(name) for name in dict.fromkeys((table.key, *table.columns)))
    connection.execute(f"insert into {_quoted(target)} ({names}) select {names} from {_quoted(source)}")


@contextmanager
def _transaction(connection: Any) -> Iterator[None]:
    connection.execute("begin immediate")
    try:
        yield
        connection.execute("commit")
    except BaseException:
        connection.execute("rollback")
        raise


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def _translate_errors(url: StoreUrl) -> Iterator[None]:
    """Translate SQLite's errors into one sentence each. pysqlite3 has error classes of its own."""
    try:
        yield
    except Exception as error:
        if "Error" not in type(error).__name__ or "sqlite3" not in type(error).__module__:
            raise
        advice = ""
        if "locked" in str(error):
            advice = " Another process is writing to it. Wait for it, or end it."
        elif "readonly" in str(error):
            advice = " Make the file and its folder writable."
        raise StoreUnavailable(f"{url}: SQLite failed: {error}.{advice}") from error
