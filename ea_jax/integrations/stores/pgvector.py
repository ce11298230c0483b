"""PostgreSQL with pgvector: columns of type `vector` and `halfvec`. The table may be written `schema.table`.

Rows are read by id, each batch with one indexed query. A sibling is a further column of the table, published by renames
in one transaction; indexes follow their column. Other options (`?sslmode=require`) and passwords (PGPASSWORD, .pgpass)
are the client's.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString, NamedTuple, cast
from uuid import UUID

import numpy as np
import psycopg
from pgvector import HalfVector
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.adapt import Loader
from psycopg.types.json import Json, Jsonb

from ea_jax.errors import BadInput, Conflict, StoreUnavailable
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
    make_record_batch,
    parse_integer_ids,
    pick_field,
    pick_vector,
    unknown_collection,
    vectors_to_numpy,
)
from ea_jax.integrations.stores.urls import StoreUrl

_METRICS: dict[str, Metric] = {"cosine": "cosine", "ip": "dot", "l2": "euclidean"}
_ID_TYPES: dict[str, IdType] = {"smallint": "integer", "integer": "integer", "bigint": "integer", "uuid": "uuid"}
_KEYS: dict[IdType, str] = {"integer": "bigint", "uuid": "uuid"}
_LANGCHAIN = "langchain_pg_embedding"  # one table for all collections; `?collection=` selects one

_COLUMNS_QUERY = """
select a.attname, t.typname, format_type(a.atttypid, null), a.atttypmod,
       exists (select from pg_index i where i.indrelid = a.attrelid and i.indisunique and i.indpred is null
               and i.indnkeyatts = 1 and i.indkey[0] = a.attnum),
       exists (select from pg_index i where i.indrelid = a.attrelid and i.indisprimary and a.attnum = any(i.indkey))
from pg_attribute a join pg_type t on t.oid = a.atttypid
where a.attrelid = to_regclass(%s) and a.attnum > 0 and not a.attisdropped order by a.attnum
"""
_OPCLASS_QUERY = """
select o.opcname from pg_index i
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
join pg_opclass o on o.oid = i.indclass[0]
where i.indrelid = to_regclass(%s) and a.attname = %s and o.opcname ~ '^(vector|halfvec)_'
"""


class TableColumn(NamedTuple):
    """A column, from the catalog."""

    type: str
    sql_type: str
    width: int | None
    unique: bool
    primary: bool


def open_store(url: StoreUrl, create: Layout | None = None) -> "PgvectorStore":
    """Open a table and one of its vector columns; see `opening.open_store`."""
    with _translate_errors(url):
        connection = psycopg.connect(url.location, autocommit=True, connect_timeout=10)
        try:
            connection.execute("set lock_timeout = '10s'")
            if create:
                connection.execute("set client_min_messages = warning")
                _create(connection, url, create)
            if not connection.execute("select from pg_type where typname = 'vector'").fetchall():
                raise BadInput(f"{url}: the database has no pgvector. Run in it: CREATE EXTENSION vector.")
            register_vector(connection)  # before the first cursor; otherwise vectors are read as strings
            columns = _columns(connection, url.name)
            if not columns:
                query = "select tablename from pg_tables where schemaname not in ('pg_catalog', 'information_schema')"
                known = [name for (name,) in connection.execute(query).fetchall()]
                raise unknown_collection("table", url.name, known, str(url.copy_with(name="")))
            store = PgvectorStore(url, connection, columns)
            if create:
                check_width(create.width, store.width, str(url))
        except BaseException:
            connection.close()
            raise
    return store


class PgvectorStore(Store):
    """A table and one of its vector columns."""

    def __init__(self, url: StoreUrl, connection: Any, columns: dict[str, TableColumn]) -> None:
        where = str(url)
        self.url, self.connection, self.columns = url, connection, columns
        self.table = _identifier(url.name)
        vectors = tuple(name for name, column in columns.items() if column.type in ("vector", "halfvec"))
        self.vectors, self.vector = vectors, pick_vector(url.vector, vectors, where)
        others = [name for name in columns if name not in vectors]
        keys = [name for name in others if columns[name].primary and columns[name].unique]
        key = pick_field("id", url.id, (*keys, *ID_FIELDS), others, where)
        if key is None or not columns[key].unique:
            raise BadInput(f"{where}: the column {key or 'id'!r} is not unique. Name a unique column: ?id=")
        self.id: str = key
        self.text = pick_field("text", url.text, TEXT_FIELDS, others, where)
        json_columns = [name for name in others if columns[name].type in ("json", "jsonb")]
        self.payload = pick_field("payload", url.payload, PAYLOAD_FIELDS, json_columns, where)
        self.others = [name for name in others if name not in (self.id, self.text, self.payload, "collection_id")]
        self.condition = sql.SQL("true")
        if "collection_id" in columns and url.name.split(".")[-1] == _LANGCHAIN:
            self._pick_collection()
        self.width, self.other_widths = columns[self.vector].width, {}
        if self.width is None:
            self._count_widths()

    def _pick_collection(self) -> None:
        """Select the LangChain collection that the URL names, or the only one."""
        query = "select name, uuid from langchain_pg_collection order by name"
        collections = dict(self.connection.execute(query).fetchall())
        name = self.url.collection or (next(iter(collections)) if len(collections) == 1 else None)
        if name not in collections:
            if not collections:
                raise BadInput(f"{self.url} holds no LangChain collections.")
            raise BadInput(
                f"{self.url} holds several LangChain collections. Name one of {', '.join(collections)}: ?collection="
            )
        self.condition = sql.SQL("collection_id = {}").format(sql.Literal(collections[name]))

    def _count_widths(self) -> None:
        query = sql.SQL(
            "select vector_dims({0}), count(*) from {1} where {0} is not null and {2} group by 1 order by 2 desc"
        ).format(sql.Identifier(self.vector), self.table, self.condition)
        counts = self.connection.execute(query).fetchall()
        if counts:
            self.width, self.other_widths = counts[0][0], dict(counts[1:])

    @property
    def needs(self) -> tuple[Column, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A further vector column needs no texts: its rows exist already."""
        return ("id", "vector") if len(self.vectors) > 1 else COLUMNS

    def describe(self) -> Description:
        with _translate_errors(self.url):
            query = sql.SQL("select count(*) from {} where {}").format(self.table, self.condition)
            count = self.connection.execute(query).fetchone()[0]
            if self.columns[self.vector].width is None:
                self._count_widths()
            classes = self.connection.execute(_OPCLASS_QUERY, (self._name(), self.vector)).fetchall()
        metrics: set[Metric | None] = {_METRICS.get(name.split("_")[1]) for (name,) in classes}
        return Description(
            str(self.url),
            count,
            self.width,
            self.other_widths,
            metrics.pop() if len(metrics) == 1 else None,
            self._id_type(),
            Fields(self.id, self.text, self.vector, self.payload),
            self.vectors,
        )

    def _name(self) -> str:
        return self.table.as_string(self.connection)

    def _id_type(self) -> IdType:
        return _ID_TYPES.get(self.columns[self.id].sql_type, "string")

    def read(
        self, columns: Sequence[Column] = COLUMNS, batch_rows: int = 1000, after: Cursor = None
    ) -> Iterator[Chunk]:
        check_columns(columns, batch_rows)
        while True:
            with _translate_errors(self.url), self.connection.cursor(binary=True) as cursor:
                kind = self.columns[self.vector].type
                cursor.adapters.register_loader(self.connection.adapters.types[kind].oid, _BytesLoader)
                records = cursor.execute(self._page(columns, batch_rows, after)).fetchall()
            if not records:
                return
            ids, texts, payloads, vectors = zip(*records, strict=True)
            after = ids[-1]
            rows = make_record_batch(
                columns,
                ids,
                texts,
                _parse_vectors(vectors, kind) if "vector" in columns else (),
                payloads,
                where=str(self.url),
            )
            yield Chunk(rows, after)

    def _page(self, columns: Sequence[Column], batch_rows: int, after: Cursor) -> sql.Composable:
        """Return the query for the rows after an id."""
        key = sql.Identifier("t", self.id)  # an unqualified name would order by the selected text
        null = sql.SQL("null")
        after_key = sql.SQL("true")
        if after is not None:
            kind = _raw(self.columns[self.id].sql_type)
            after_key = sql.SQL("{} > {}::{}").format(key, sql.Literal(after), kind)
        return sql.SQL(
            "select {key}::text, {text}, {payload}, {vector} from {table} t where {condition} and {after_key} "
            "order by {key} limit {limit}"
        ).format(
            key=key,
            text=sql.Identifier(self.text) if self.text and "text" in columns else null,
            payload=self._payload() if "payload" in columns else null,
            vector=sql.Identifier(self.vector) if "vector" in columns else null,
            table=self.table,
            condition=self.condition,
            after_key=after_key,
            limit=sql.Literal(batch_rows),
        )

    def _payload(self) -> sql.Composable:
        """Return the expression that merges the other columns into the JSON column."""
        parts = []
        if self.payload:
            parts.append(sql.SQL("coalesce({}::jsonb, '{{}}'::jsonb)").format(sql.Identifier(self.payload)))
        if self.others:
            pairs = [sql.SQL("{}, {}").format(sql.Literal(n), sql.Identifier(n)) for n in self.others]
            parts.append(sql.SQL("jsonb_build_object({})").format(sql.SQL(", ").join(pairs)))
        joined = sql.SQL(" || ").join(parts) if parts else sql.SQL("'{}'::jsonb")
        return sql.SQL("nullif({}, '{{}}'::jsonb)::text").format(joined)

    def write(self, rows: Any) -> None:
        where = str(self.url)
        check_rows(rows, self.needs, self.width, where)
        ids = rows.column("id").to_pylist()
        keys = _keys(ids, self._id_type(), where)
        half = self.columns[self.vector].type == "halfvec"
        vectors = vectors_to_numpy(rows)
        values: dict[str, Any] = {
            self.id: keys,
            self.vector: [HalfVector(v) for v in vectors] if half else vectors,
        }
        if "text" in self.needs:
            if "collection_id" in self.columns:
                raise BadInput(f"{where} is LangChain's table of all collections. Write to a new column: ?vector=")
            for field, column in ((self.text, "text"), (self.payload, "payload")):
                if field is not None:
                    values[field] = [_typed(v, self.columns[field].type) for v in rows.column(column).to_pylist()]
                elif rows.column(column).null_count < len(rows):
                    raise BadInput(f"{where} has no column for the rows' {column}. Name one: ?{column}=")
        with _translate_errors(self.url):
            try:
                if "text" not in self.needs:
                    self._update(values, len(rows))
                else:
                    self._copy(self.table, values)
            except psycopg.errors.UniqueViolation:  # some rows exist
                self._upsert(values)

    def _copy(self, table: sql.Composable, values: dict[str, Any]) -> None:
        """Copy rows to a table: many times faster than one statement per row."""
        names = sql.SQL(", ").join(map(sql.Identifier, values))
        query = sql.SQL("copy {} ({}) from stdin (format binary)").format(table, names)
        with self.connection.cursor() as cursor, cursor.copy(query) as copy:
            copy.set_types([self.columns[name].type for name in values])
            for row in zip(*values.values(), strict=True):
                copy.write_row(row)

    @contextmanager
    def _copied(self, values: dict[str, Any]) -> Iterator[sql.Composable]:
        """Copy rows to a temporary table, in a transaction."""
        typed = [sql.SQL("{} {}").format(sql.Identifier(n), _raw(self.columns[n].sql_type)) for n in values]
        table = sql.Identifier("pg_temp", "ea_jax_rows")
        with self.connection.transaction():
            query = sql.SQL("create temporary table ea_jax_rows ({}) on commit drop")
            self.connection.execute(query.format(sql.SQL(", ").join(typed)))
            self._copy(table, values)
            yield table

    def _upsert(self, values: dict[str, Any]) -> None:
        names = {name: sql.Identifier(name) for name in values}
        changes = [sql.SQL("{0} = excluded.{0}").format(names[name]) for name in values if name != self.id]
        with self._copied(values) as rows:
            query = sql.SQL("insert into {} ({}) select {} from {} on conflict ({}) do update set {}")
            listed = sql.SQL(", ").join(names.values())
            self.connection.execute(
                query.format(self.table, listed, listed, rows, names[self.id], sql.SQL(", ").join(changes))
            )

    def _update(self, values: dict[str, Any], n: int) -> None:
        """Fill a further column of existing rows."""
        with self._copied(values) as rows:
            query = sql.SQL("update {table} t set {vector} = r.{vector} from {rows} r where t.{key} = r.{key}")
            names = {"vector": sql.Identifier(self.vector), "key": sql.Identifier(self.id)}
            updated = self.connection.execute(query.format(table=self.table, rows=rows, **names)).rowcount
            if updated < n:
                raise BadInput(f"{self.url}: the table lacks the ids of {n - updated} rows to write.")

    def create_sibling(self, name: str, width: int, metric: Metric | None = None) -> "PgvectorStore":
        kind = self.columns[self.vector].type
        with _translate_errors(self.url):
            if name not in _columns(self.connection, self.url.name):
                _add_column(self.connection, self.table, name, kind, width)
        url = self.url.copy_with(vector=name, id=self.id, text=self.text, payload=self.payload)
        return open_store(url, Layout(width, metric or "cosine", self._id_type()))

    def check_public(self, public: str, current: str) -> None:
        with _translate_errors(self.url):
            columns = _columns(self.connection, self.url.name)
        if public in columns and columns[public].type not in ("vector", "halfvec"):
            raise Conflict(f"{self.url}: the column {public!r} does not hold vectors and will not be replaced.")

    def publish(self, public: str) -> Published:
        current, old = self.vector, f"{public}_before_{self.vector}"
        self.check_public(public, current)
        with _translate_errors(self.url), self.connection.transaction():
            columns = _columns(self.connection, self.url.name)
            if current in columns and current != public:
                if public in columns:
                    self._rename(public, old)
                self._rename(current, public)
            columns = _columns(self.connection, self.url.name)
        return Published(public, current, old if old in columns else None)

    def unpublish(self, published: Published) -> None:
        public, current, previous = published
        with _translate_errors(self.url), self.connection.transaction():
            columns = _columns(self.connection, self.url.name)
            if current not in columns and public in columns:
                self._rename(public, current)
                if previous in columns:
                    self._rename(str(previous), public)

    def _rename(self, old: str, new: str) -> None:
        query = sql.SQL("alter table {} rename column {} to {}")
        self.connection.execute(query.format(self.table, sql.Identifier(old), sql.Identifier(new)))

    def close(self) -> None:
        self.connection.close()


class _BytesLoader(Loader):
    """Return vectors as PostgreSQL sends them, since an object per vector takes most of the time of reading."""

    format = psycopg.pq.Format.BINARY

    def load(self, data: Any) -> bytes:
        return bytes(data)


def _parse_vectors(values: Sequence[bytes | None], kind: str) -> Any:
    """Parse vectors: four bytes for the width, then big-endian numbers. Returns [n, d] if no row differs in width."""
    number = ">f2" if kind == "halfvec" else ">f4"
    if len({None if value is None else len(value) for value in values}) > 1 or values[0] is None:
        return [None if value is None else np.frombuffer(value, number, offset=4) for value in values]
    rows = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return np.ascontiguousarray(rows[:, 4:]).view(number).astype(np.float32)


def _create(connection: Any, url: StoreUrl, layout: Layout) -> None:
    """Create the table, or the vector column of an existing table, if it is missing."""
    columns = _columns(connection, url.name)
    vector = url.vector or next((n for n, c in columns.items() if c.type in ("vector", "halfvec")), "embedding")
    if columns and vector not in columns:
        _add_column(connection, _identifier(url.name), vector, "vector", layout.width)
    elif not columns:
        connection.execute("create extension if not exists vector")
        query = sql.SQL("create table if not exists {} ({} {} primary key, {} text, {} jsonb, {} vector({}))").format(
            _identifier(url.name),
            sql.Identifier(url.id or "id"),
            _raw(_KEYS.get(layout.id_type, "text")),
            sql.Identifier(url.text or "text"),
            sql.Identifier(url.payload or "metadata"),
            sql.Identifier(vector),
            sql.Literal(layout.width),
        )
        connection.execute(query)


def _add_column(connection: Any, table: sql.Composable, name: str, kind: str, width: int) -> None:
    query = sql.SQL("alter table {} add column if not exists {} {}({})")
    connection.execute(query.format(table, sql.Identifier(name), _raw(kind), sql.Literal(width)))


def _columns(connection: Any, table: str) -> dict[str, TableColumn]:
    """Return the columns of a table by name; an empty dict if the table does not exist."""
    name = _identifier(table).as_string(connection)
    rows = connection.execute(_COLUMNS_QUERY, (name,)).fetchall()
    vectors = ("vector", "halfvec")
    return {
        name: TableColumn(kind, typed, modifier if kind in vectors and modifier > 0 else None, unique, primary)
        for name, kind, typed, modifier, unique, primary in rows
    }


def _keys(ids: Sequence[str], kind: IdType, where: str) -> Sequence[Any]:
    """Convert ids to the type of their column."""
    if kind == "integer":
        return parse_integer_ids(ids, where)
    try:
        return [UUID(i) for i in ids] if kind == "uuid" else ids
    except ValueError as error:
        raise BadInput(
            f"{where} has UUIDs as ids, but a row has another id. Write to a store with string ids."
        ) from error


def _typed(value: str | None, kind: str) -> Any:
    """Convert a value to the type of its column. JSON text is not encoded twice."""
    wrap = {"json": Json, "jsonb": Jsonb}.get(kind)
    return wrap(value, dumps=str) if wrap and value is not None else value


def _raw(name: str) -> sql.SQL:
    """Return a type name as SQL. It comes from the catalog or this module, never from the user."""
    return sql.SQL(cast(LiteralString, name))


def _identifier(table: str) -> sql.Identifier:
    return sql.Identifier(*table.split(".", 1))


@contextmanager
def _translate_errors(url: StoreUrl) -> Iterator[None]:
    """Translate the client's errors into one sentence each."""
    try:
        yield
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction) as error:
        raise StoreUnavailable(
            f"{url}: PostgreSQL denies access: {_first_line(error)}. Connect as a role with sufficient rights."
        ) from error
    except psycopg.errors.LockNotAvailable as error:
        raise StoreUnavailable(f"{url}: another session holds a lock on the table. Try again later.") from error
    except psycopg.OperationalError as error:
        raise StoreUnavailable(f"{url}: no connection to PostgreSQL: {_first_line(error)}.") from error
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise BadInput(f"{url}: PostgreSQL rejects the rows: {_first_line(error)}.") from error
    except psycopg.Error as error:
        raise StoreUnavailable(f"{url}: PostgreSQL failed: {_first_line(error)}.") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
