"""The pure core of a job: a record batch of Arrow in, one with target vectors out, other columns as they were."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import pyarrow as pa

from ea_jax.adapters.adapter import Adapter
from ea_jax.batch.columns import (
    NULL,
    Checked,
    check_texts,
    check_vectors,
    find_column,
    numbers_column,
    to_column,
    vector_type,
)
from ea_jax.batch.device import ROWS, OnDevices, Pending
from ea_jax.data import provenance
from ea_jax.encoders.encoder import Encoder
from ea_jax.errors import BadInput
from ea_jax.io.hashing import values_sha256
from ea_jax.quality.scores import Quality
from ea_jax.registry.fingerprint import check_source

WhereNull = Literal["keep", "drop", "error"]
GO_ON = "--on-error skip --rejects FILE carries on without such rows"


@dataclass(frozen=True)
class Options:
    """What a job does with a batch.

    Attributes:
        column: The vectors or texts; the only column that can be meant if None.
        out_column: Where the target vectors go; in place of the source vectors, or `embedding` for texts, if None.
        id_column: Named with each row that is rejected.
        vectors_only: Leave out all other columns but the one of ids.
        dtype: float32, float16, or int8 with a column `<out_column>_scale` to multiply by.
        dim: How many leading numbers are kept, of targets trained for that (Matryoshka).
        where_null: What becomes of a row without vector or text: it stays without, goes, or is bad.
        skip: Whether bad rows are put aside, instead of an error at the first.
        rows: Of a batch, at the most.
        assume_source: Whether vectors are taken for the source model's, whatever their schema says of them.
    """

    column: str | None = None
    out_column: str | None = None
    id_column: str | None = None
    vectors_only: bool = False
    dtype: str = "float32"
    dim: int | None = None
    where_null: WhereNull = "error"
    skip: bool = False
    rows: int = ROWS
    assume_source: bool = False


class Done(NamedTuple):
    """A mapped batch, why which of its rows were put aside (by number in the batch), and how many null ones went."""

    batch: pa.RecordBatch
    rejected: dict[int, str]
    dropped: int


class BatchMap:
    """`RecordBatch -> RecordBatch`: what Spark's `mapInArrow`, Ray Data and the command line call alike.

    A call is pure: it depends on nothing but the batch, and two processes give the same bytes.

    Args:
        adapt: The adapter.
        quality: Its quality part, where a column `confidence` is wanted.
        encode: The encoder of its source, where texts are to be mapped.
        options: What to do with a batch.
        facts: What the schema's metadata say of the vectors; those of the adapter if None.
    """

    def __init__(
        self,
        adapt: Adapter,
        quality: Quality | None = None,
        encode: Encoder | None = None,
        options: Options | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.options = options or Options()
        self.encode, self.spec, self.judge = encode, adapt.spec, quality
        self._run = OnDevices(adapt, quality, dtype=self.options.dtype, dim=self.options.dim, most=self.options.rows)
        self.facts = facts or {
            "source": adapt.spec.source,
            "target": adapt.spec.target,
            "purpose": adapt.spec.purpose,
            "params": values_sha256(adapt.params),
            "encoder": {"model": adapt.spec.source, "fingerprint": adapt.spec.fingerprint},
        }

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Map a batch.

        Raises:
            BadInput: A row is bad, unless such rows are skipped; or there is no such column.
        """
        return self.start(batch)().batch

    def judge_digest(self) -> str:
        """Digest of the quality part's values, or that there is none."""
        return values_sha256(self.judge.params) if self.judge else "none"

    def in_column(self, schema: pa.Schema) -> str:
        """The column that is mapped."""
        return find_column(schema, self.options.column, self.encode is not None)

    def out_schema(self, schema: pa.Schema) -> pa.Schema:
        """The schema of what comes out, for batches of this one.

        Raises:
            BadInput: A column is missing, of another kind, or there already.
            FingerprintMismatch: The schema says that another encoder made the vectors.
        """
        column, ids = self.in_column(schema), self.options.id_column
        if ids is not None and ids not in schema.names:
            raise BadInput(f"There is no column {ids!r} among {', '.join(schema.names)}. --id-column names another.")
        name = self._out_name(column)
        made = [pa.field(name, vector_type(self.options.dtype, self._run.width))]
        if self.options.dtype == "int8":
            made.append(pa.field(f"{name}_scale", pa.float32()))
        if self.judge:
            made.append(pa.field("confidence", pa.float32()))
        others = [field for field in schema if self.encode or field.name != column]
        if self.options.vectors_only:
            others = [field for field in others if field.name == ids]
        taken = [field.name for field in made if field.name in {other.name for other in others}]
        if taken:
            raise BadInput(f"The input already has a column {taken[0]!r}. --out-column names another for the vectors.")
        place = schema.names.index(column) if not self.encode and not self.options.vectors_only else len(others)
        fields = [*others[:place], made[0], *others[place:], *made[1:]]
        return provenance.write(pa.schema(fields, metadata=schema.metadata), self.facts | self._assumed(schema))

    def _assumed(self, schema: pa.Schema) -> dict[str, Any]:
        """What the schema says of the source vectors, where that is overruled."""
        said = None if self.encode else provenance.encoder_of(schema)
        to = f"the adapter to {self.facts['target']}"
        return check_source(self.facts["encoder"], said, "The input", to, self.options.assume_source)

    def start(self, batch: pa.RecordBatch, where: Callable[[int], str] = "row {}".format) -> Callable[[], Done]:
        """Begin with a batch; the callable that comes back waits for the device.

        Args:
            where: How errors name a row of the batch.
        """
        schema, column = self.out_schema(batch.schema), self.in_column(batch.schema)
        values = batch.column(column)
        checked = check_texts(values) if self.encode else check_vectors(values, self.spec.d_in)
        bad = {row: why for row, why in checked.reasons.items() if why != NULL or self.options.where_null == "error"}
        if bad and not self.options.skip:
            row, why = next(iter(bad.items()))
            raise BadInput(f"{where(row)}, column {column}: {why}. {GO_ON}.")
        x: Any = self.encode(cast(list[str], checked.values)) if self.encode else checked.values
        pending = self._run.start(x) if len(x) else None
        return lambda: self._finish(batch, schema, self._out_name(column), checked, bad, pending)

    def _finish(
        self,
        batch: pa.RecordBatch,
        schema: pa.Schema,
        name: str,
        checked: Checked,
        bad: dict[int, str],
        pending: Pending | None,
    ) -> Done:
        kept, there = checked.good.copy(), checked.good
        if self.options.where_null == "keep":
            kept[[row for row in checked.reasons if row not in bad]] = True
        dropped = int((~kept).sum()) - len(bad)
        if not kept.all():
            batch, there = batch.filter(pa.array(kept)), there[kept]
        made = self._columns(name, there, pending)
        columns = [made[name] if name in made else batch.column(name) for name in schema.names]
        return Done(pa.RecordBatch.from_arrays(columns, schema=schema), bad, dropped)

    def _out_name(self, column: str) -> str:
        return self.options.out_column or ("embedding" if self.encode else column)

    def _columns(self, name: str, there: np.ndarray, pending: Pending | None) -> dict[str, pa.Array]:
        kind = vector_type(self.options.dtype, self._run.width)
        if pending is None:
            none = np.zeros(0, np.float32)
            y, scale, confidence = np.zeros((0, self._run.width), self._run.dtype), none, none
        else:
            y, scale, confidence = pending.finish()
        made = {name: to_column(y, there, kind)}
        if scale is not None and self.options.dtype == "int8":
            made[f"{name}_scale"] = numbers_column(scale, there)
        if confidence is not None and self.judge:
            made["confidence"] = numbers_column(confidence, there)
        return made
