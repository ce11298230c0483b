"""What every vector store can do here. The engines' modules implement it; commands and workflows know nothing else.

Rows travel as Arrow record batches with up to four columns:

| column  | type                             | null where                                |
| ------- | -------------------------------- | ----------------------------------------- |
| id      | string                           | never                                     |
| text    | string                           | the row has no text                       |
| vector  | fixed-size list of float32 [d]   | the row has no vector                     |
| payload | string: a JSON object            | the row carries nothing else              |

An id is a string whatever the engine calls it: `"7"` is the integer 7 in an engine of integer ids.
The payload is all that a row carries besides its id, text and vectors.
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
Cursor = Any  # a JSON value that only its own engine can read


class Fields(NamedTuple):
    """The engine's own names of a row's fields; None where there is no such field."""

    id: str | None
    text: str | None
    vector: str | None
    payload: str | None


class Description(NamedTuple):
    """What a store holds.

    Attributes:
        rows: How many, those without a vector included.
        width: Width of the vectors; None if there are none and none is declared.
        other_widths: Rows of each further width; empty unless vectors of several widths lie in one field.
        metric: What the index ranks by; None where the engine leaves it to the query.
        vectors: All vector fields of the collection or table, by name.
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
    """Rows, and the cursor after them: `read(after=cursor)` goes on with the next row."""

    rows: pa.RecordBatch
    cursor: Cursor


class Layout(NamedTuple):
    """How a collection, table or column is made where it is missing."""

    width: int
    metric: Metric = "cosine"
    id_type: IdType = "string"


class Published(NamedTuple):
    """What `unpublish` needs. It is made of strings, so that it can be kept as JSON.

    Attributes:
        public: The name that readers ask for: an alias, collection, table, column or file.
        current: The name of what they get now, before it was published.
        previous: The name of what they got until then; None if nothing had the public name.
    """

    public: str
    current: str
    previous: str | None


class Store(ABC):
    """An open collection, table, column or index file. Close it, or use it in a `with` statement.

    Attributes:
        url: Where it is.
        needs: The columns that `write` takes. A store that is one more column of an existing table
            needs the ids and vectors only, since its rows have their texts and payloads already.

    All methods raise `StoreUnavailable` when the engine cannot be reached, is locked or refuses.
    """

    url: StoreUrl
    needs: tuple[Column, ...] = COLUMNS

    @abstractmethod
    def describe(self) -> Description:
        """Count the rows, and say how they are laid out."""

    @abstractmethod
    def read(
        self, columns: Sequence[Column] = COLUMNS, batch_rows: int = 1000, after: Cursor = None
    ) -> Iterator[Chunk]:
        """Read all rows in an order that stays the same, usually that of the ids.

        Args:
            columns: Which to fetch; ids always are.
            batch_rows: Rows of a chunk at most.
            after: A chunk's cursor, of this or an earlier process; None starts with the first row.

        Raises:
            BadInput: A field is missing, vectors have several widths or are stored with loss, or a cursor is not
                valid any more.
        """

    @abstractmethod
    def write(self, rows: pa.RecordBatch) -> None:
        """Insert rows, or replace those of the same ids. Repeating a write changes nothing.

        Args:
            rows: The columns of `needs`; ids unique, vectors finite, of the store's width, and none missing.

        Raises:
            BadInput: The rows do not fit the store.
        """

    def flush(self) -> None:  # noqa: B027 (most engines have nothing to do)
        """Make all that was written last and be seen by other readers. Call it after the last write."""

    @abstractmethod
    def create_sibling(self, name: str, width: int, metric: Metric | None = None) -> "Store":
        """Open a new collection, table or column beside this one, with the same field names and kind of ids.

        Args:
            name: Its name; one that is there already, and of the same width, is opened as it is.
            metric: That of this store if None, or cosine.

        Raises:
            BadInput: The name is taken by something of another width.
        """

    @abstractmethod
    def publish(self, public: str) -> Published:
        """Give readers of a name this store instead of what they get now, as atomically as the engine can.

        Publishing what is published changes nothing. After a rename this object is stale: open the store again.

        Args:
            public: An alias, or the name of a collection, table, column or file.

        Raises:
            BadInput: The engine cannot publish under this name.
        """

    @abstractmethod
    def unpublish(self, published: Published) -> None:
        """Undo `publish`: readers get what they got before. Nothing is deleted."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the engine's connection and locks."""

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
