"""The interface of vector stores. One module per engine implements it; commands and workflows use nothing else.

Rows are Arrow record batches with up to four columns:

| column  | type                             | null if                                   |
| ------- | -------------------------------- | ----------------------------------------- |
| id      | string                           | never                                     |
| text    | string                           | the row has no text                       |
| vector  | fixed-size list of float32 [d]   | the row has no vector                     |
| payload | string: a JSON object            | the row has no other fields               |

Ids are strings, whatever type the engine stores: `"7"` is the integer 7 in an engine with integer ids.
The payload holds all fields of a row except its id, text and vectors.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from ea_jax.integrations.stores.urls import StoreUrl

Column = Literal["id", "text", "vector", "payload"]
COLUMNS: tuple[Column, ...] = ("id", "text", "vector", "payload")
Metric = Literal["cosine", "dot", "euclidean"]
IdType = Literal["string", "integer", "uuid", "integer or uuid"]
Cursor = Any  # a JSON value, whose meaning only the engine's module knows


class Fields(NamedTuple):
    """The engine's names of a row's fields; None for a field that the rows lack."""

    id: str | None
    text: str | None
    vector: str | None
    payload: str | None


class Description(NamedTuple):
    """Size and layout of a store.

    Attributes:
        rows: Number of rows, including those without a vector.
        width: Width of the vectors; None if the store has no vectors and declares no width.
        other_widths: Number of rows by each further width; empty unless one field holds vectors of several widths.
        metric: Metric of the index; None if each query chooses it.
        vectors: Names of all vector fields of the collection or table.
    """

    url: str
    rows: int
    width: int | None
    other_widths: dict[int, int]
    metric: Metric | None
    id_type: IdType
    fields: Fields
    vectors: tuple[str, ...]


class Chunk(NamedTuple):
    """Rows, and the cursor behind them: `read(after=cursor)` continues with the next row."""

    rows: pa.RecordBatch
    cursor: Cursor


class Layout(NamedTuple):
    """Layout of a collection, table or column to create."""

    width: int
    metric: Metric = "cosine"
    id_type: IdType = "string"


class Published(NamedTuple):
    """The input of `unpublish`. All values are strings, so that it can be stored as JSON.

    Attributes:
        public: Name that readers use: an alias, collection, table, column or file.
        current: Own name of the published store, as it was before it was published.
        previous: Present name of the store that had the public name before; None if there was none.
    """

    public: str
    current: str
    previous: str | None


class Store(ABC):
    """An open collection, table, column or index file. Close it, or use it in a `with` statement.

    Attributes:
        url: Its URL.
        needs: Columns that `write` requires. A store that is a further column of an existing table requires only
            ids and vectors, since its rows already have texts and payloads.
        writes_are_durable: Whether rows survive a kill of the process after `write`. If not, they do after `flush`.

    All methods raise `StoreUnavailable` if the engine cannot be reached, is locked or denies access.
    """

    url: StoreUrl
    needs: tuple[Column, ...] = COLUMNS
    writes_are_durable: bool = True

    @abstractmethod
    def describe(self) -> Description:
        """Count the rows and describe their layout."""

    @abstractmethod
    def read(
        self, columns: Sequence[Column] = COLUMNS, batch_rows: int = 1000, after: Cursor = None
    ) -> Iterator[Chunk]:
        """Read all rows in a stable order, usually by id.

        Args:
            columns: Columns to read; ids are always included.
            batch_rows: Largest number of rows in a chunk.
            after: Cursor of a chunk, from this or an earlier process; None starts with the first row.

        Raises:
            BadInput: A field is missing, vectors have several widths or are stored with loss, or the cursor is no
                longer valid.
        """

    @abstractmethod
    def write(self, rows: pa.RecordBatch) -> None:
        """Insert rows, or replace rows with the same ids. Writes are idempotent.

        Args:
            rows: A batch with the columns of `needs`; ids are unique, and each row has a finite vector of the store's
                width.

        Raises:
            BadInput: The rows do not fit the store.
        """

    def flush(self) -> None:  # noqa: B027 (most engines need nothing)
        """Make all writes durable and visible to other readers. Call it after the last write."""

    @abstractmethod
    def create_sibling(self, name: str, width: int, metric: Metric | None = None) -> "Store":
        """Create a collection, table or column next to this one, with the same field names and id type, and open it.

        Args:
            name: Name of the sibling. An existing one of the same width is opened.
            width: Width of its vectors.
            metric: Metric of its index. If None, that of this store, or cosine if this store declares none.

        Raises:
            Conflict: The name exists, with another width.
        """

    def check_public(self, public: str, current: str) -> None:  # noqa: B027 (some engines accept any name)
        """Check a name before any work.

        Args:
            public: Name that readers will use.
            current: Name of the store to publish: this one, or a sibling that need not exist yet.

        Raises:
            BadInput, Conflict: `publish` of that store would refuse the name.
        """

    @abstractmethod
    def publish(self, public: str) -> Published:
        """Make the name that readers use refer to this store, as atomically as the engine can.

        Publishing twice changes nothing. Afterwards this object may be stale: open the store again.

        Args:
            public: Name that readers use: an alias, collection, table, column or file.

        Raises:
            BadInput: The engine cannot publish under this name.
            Conflict: The name belongs to something that publishing must not replace.
        """

    @abstractmethod
    def unpublish(self, published: Published) -> None:
        """Undo `publish`: the public name refers to the previous store again. Nothing is deleted."""

    def address(self) -> tuple[str, ...]:
        """Return what identifies the vectors: engine, location, collection or table, and vector field.

        Two URLs with the same address are the same store, whatever names its other fields have.
        """
        location = self.url.location if self.url.is_remote else str(self.url.path.resolve())
        return (self.url.engine, location, self._resolve_name(), self.describe().fields.vector or "")

    def _resolve_name(self) -> str:
        """Return the name of the collection or table, or of that to which an alias refers."""
        return self.url.name

    @abstractmethod
    def close(self) -> None:
        """Close the connection to the engine and release its locks."""

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
