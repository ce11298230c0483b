"""Map Arrow record batches: target vectors replace source vectors (or join texts), other columns pass through."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from ea_jax.adapters.adapter import Adapter
from ea_jax.batch.columns import floats_to_column, vector_type, vectors_to_column
from ea_jax.batch.device import ROWS, DeviceRunner, Pending, source_rule
from ea_jax.data import provenance
from ea_jax.data.columns import (
    NULL,
    Checked,
    check_texts,
    check_vectors,
    column_type,
    find_column,
    get_column,
    scale_column,
)
from ea_jax.embeddings import VectorRule
from ea_jax.encoders.encoder import Encoder
from ea_jax.errors import BadInput
from ea_jax.io.hashing import values_sha256
from ea_jax.quality.scores import Quality
from ea_jax.registry.fingerprint import check_source

WhereNull = Literal["keep", "drop", "error"]


class BadRow(BadInput):
    """A row cannot be mapped. The job can continue without such rows if `Options.skip` is set."""


@dataclass(frozen=True)
class Options:
    """How to map a batch.

    Attributes:
        column: Column of the vectors or texts; the only suitable column if None.
        out_column: Column for the target vectors. If None, they replace the source vectors, or go to `embedding` where
            the input is text.
        id_column: Column whose value is listed with each rejected row.
        vectors_only: Drop all other columns except `id_column`.
        dtype: float32, float16, or int8 with a column `<out_column>_scale` of multipliers.
        dim: Number of leading dimensions to keep, for Matryoshka targets; all if None.
        where_null: For a row without vector or text: keep it with a null vector, drop it, or treat it as bad.
        skip: Set bad rows aside instead of raising at the first.
        rows: Largest number of rows in a batch.
        assume_source: Accept vectors as the source model's, whatever their schema records.
        normalize: Rescale vectors of any length to unit length.
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
    normalize: bool = False


class MappedBatch(NamedTuple):
    """A mapped batch.

    Attributes:
        batch: The rows that were mapped or kept.
        rejected: The reason for each rejected row, by its number in the input batch.
        dropped: Number of null rows that were dropped.
        truncated: Number of texts that were cut at the encoder's limit.
    """

    batch: pa.RecordBatch
    rejected: dict[int, str]
    dropped: int
    truncated: int = 0


class _Plan(NamedTuple):
    """What follows from an input schema.

    Attributes:
        column: Column to map.
        scale: Column of the scales of int8 vectors that ea_jax wrote, if `column` holds such vectors.
        out_column: Column for the target vectors.
        schema: Schema of the output.
    """

    column: str
    scale: str | None
    out_column: str
    schema: pa.Schema


class BatchMap:
    """A function from record batch to record batch, for the command line, Spark's `mapInArrow` and Ray Data.

    A call is pure: the output depends on the batch alone, and is the same in every process.

    Args:
        adapt: The adapter.
        quality: Its quality part, to add a column `confidence`; no such column if None.
        encode: The encoder of its source, to map texts; vectors are mapped if None.
        options: How to map a batch.
        facts: Provenance to record in the output schema; derived from the adapter if None.
        rule: What source vectors must be; looked up by the name of the source if None.
    """

    def __init__(
        self,
        adapt: Adapter,
        quality: Quality | None = None,
        encode: Encoder | None = None,
        options: Options | None = None,
        facts: dict[str, Any] | None = None,
        rule: VectorRule | None = None,
    ) -> None:
        self.options = options or Options()
        self.encode, self.spec, self.quality = encode, adapt.spec, quality
        self.rule = rule or source_rule(adapt.spec, self.options.normalize)
        self._run = DeviceRunner(
            adapt, quality, dtype=self.options.dtype, dim=self.options.dim, max_rows=self.options.rows
        )
        self._planned: tuple[pa.Schema, _Plan] | None = None
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
            BadInput: A column is missing or has the wrong type.
            BadRow: A row cannot be mapped, and `options.skip` is not set.
        """
        return self.start(batch)().batch

    def quality_digest(self) -> str:
        """Return a digest of the quality part's parameters, or `none`."""
        return values_sha256(self.quality.params) if self.quality else "none"

    def out_schema(self, schema: pa.Schema) -> pa.Schema:
        """Return the output schema for batches of an input schema.

        Raises:
            BadInput: A column is missing or has the wrong type, or an output column exists already.
            FingerprintMismatch: The schema records that another encoder made the vectors.
        """
        return self._plan(schema).schema

    def _plan(self, schema: pa.Schema) -> _Plan:
        if self._planned is None or not self._planned[0].equals(schema, check_metadata=True):
            self._planned = schema, self._make_plan(schema)
        return self._planned[1]

    def _make_plan(self, schema: pa.Schema) -> _Plan:
        column, ids = find_column(schema, self.options.column, self.encode is not None), self.options.id_column
        if ids is not None:
            column_type(schema, ids)
        scale = None if self.encode else scale_column(schema, column)
        name = self.options.out_column or ("embedding" if self.encode else column.split(".")[-1])
        added = [pa.field(name, vector_type(self.options.dtype, self._run.width))]
        if self.options.dtype == "int8":
            added.append(pa.field(f"{name}_scale", pa.float32()))
        if self.quality:
            added.append(pa.field("confidence", pa.float32()))
        others = [field for field in schema if self.encode or field.name not in (column, scale)]
        if self.options.vectors_only:
            others = [field for field in others if field.name == ids]
        conflicts = [field.name for field in added if field.name in {other.name for other in others}]
        if conflicts:
            raise BadInput(f"The input already has a column {conflicts[0]!r}. Name another out_column.")
        replaces = not self.encode and not self.options.vectors_only and column in schema.names
        at = schema.names.index(column) if replaces else len(others)
        fields = [*others[:at], added[0], *others[at:], *added[1:]]
        facts = self.facts | self._assumed_source(schema)
        return _Plan(column, scale, name, provenance.write(pa.schema(fields, metadata=schema.metadata), facts))

    def _assumed_source(self, schema: pa.Schema) -> dict[str, Any]:
        """Return the recorded encoder of the source vectors if `assume_source` overrules it; else nothing."""
        recorded = None if self.encode else provenance.encoder_of(schema)
        adapter = f"the adapter to {self.facts['target']}"
        return check_source(self.facts["encoder"], recorded, "The input", adapter, self.options.assume_source)

    def check(self, batch: pa.RecordBatch) -> Checked:
        """Return the usable source vectors of a batch, and the reason for each other row."""
        plan = self._plan(batch.schema)
        scale = batch.column(plan.scale) if plan.scale else None
        return check_vectors(get_column(batch, plan.column), self.rule, scale)

    def start(self, batch: pa.RecordBatch, where: Callable[[int], str] = "row {}".format) -> Callable[[], MappedBatch]:
        """Start mapping a batch on the devices. The returned callable waits for the result.

        Args:
            where: Names a row of the batch in error messages.
        """
        plan = self._plan(batch.schema)
        checked = check_texts(get_column(batch, plan.column)) if self.encode else self.check(batch)
        bad = {row: why for row, why in checked.reasons.items() if why != NULL or self.options.where_null == "error"}
        if bad and not self.options.skip:
            row, why = next(iter(bad.items()))
            raise BadRow(f"{where(row)}, column {plan.column}: {why}.")
        x, truncated = checked.values, 0
        if self.encode:
            tokenized = self.encode.tokenize(x)
            x, truncated = self.encode.embed(tokenized), sum(tokenized.truncated)
        pending = self._run.start(x) if len(x) else None
        return lambda: self._finish(batch, plan, checked, bad, pending)._replace(truncated=truncated)

    def _finish(
        self, batch: pa.RecordBatch, plan: _Plan, checked: Checked, bad: dict[int, str], pending: Pending | None
    ) -> MappedBatch:
        keep, has_value = checked.good.copy(), checked.good
        if self.options.where_null == "keep":
            keep[[row for row in checked.reasons if row not in bad]] = True
        dropped = int((~keep).sum()) - len(bad)
        if not keep.all():
            batch, has_value = batch.filter(pa.array(keep)), has_value[keep]
        added = self._columns(plan.out_column, has_value, pending)
        columns = [added[name] if name in added else batch.column(name) for name in plan.schema.names]
        return MappedBatch(pa.RecordBatch.from_arrays(columns, schema=plan.schema), bad, dropped)

    def _columns(self, name: str, has_value: np.ndarray, pending: Pending | None) -> dict[str, pa.Array]:
        if pending is None:
            none = np.zeros(0, np.float32)
            y, scale, confidence = np.zeros((0, self._run.width), self._run.dtype), none, none
        else:
            y, scale, confidence = pending.finish()
        columns = {name: vectors_to_column(y, has_value, vector_type(self.options.dtype, self._run.width))}
        if scale is not None and self.options.dtype == "int8":
            columns[f"{name}_scale"] = floats_to_column(scale, has_value)
        if confidence is not None and self.quality:
            columns["confidence"] = floats_to_column(confidence, has_value)
        return columns
