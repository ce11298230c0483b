"""Check a store: its contents, and defects that harm a search or a fit."""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Float32

from ea_jax.embeddings import LENGTH_TOLERANCE
from ea_jax.integrations.stores.protocol import Description, Store
from ea_jax.workflows.mixed_models import find_populations

Level = Literal["ok", "note", "warning", "error"]
Scorer = Callable[[list[str], Any], Any]
Identifier = Callable[[Any, list[str]], str | None]

SAMPLE = 1500  # rows to search for two models; the cost is cubic
EXAMPLES = 3
OUTLIER_DEVIATIONS = 6.0  # robust standard deviations below the median; by chance, none in 10**8 rows


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        check: Name of the check.
        level: Severity of the result.
        rows: Number of affected rows.
        message: Result, and what to do about a defect.
        examples: Ids of a few affected rows.
    """

    check: str
    level: Level
    rows: int
    message: str
    examples: tuple[str, ...] = ()


class StoreReport(NamedTuple):
    """Results of all checks of a store.

    Attributes:
        store: Description of the store.
        findings: Result of each check.
        norms: Smallest, median and largest norm of the usable vectors; None if there are none.
        model: Model that made the vectors, if it was identified.
    """

    store: Description
    findings: tuple[Finding, ...]
    norms: tuple[float, float, float] | None
    model: str | None

    @property
    def ok(self) -> bool:
        """Whether no check ended with a warning or an error."""
        return all(finding.level in ("ok", "note") for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Convert the report to JSON values."""
        store = self.store._asdict()
        store["fields"] = self.store.fields._asdict()
        findings = [finding._asdict() for finding in self.findings]
        return {"ok": self.ok, "store": store, "model": self.model, "norms": self.norms, "findings": findings}

    def __str__(self) -> str:
        """Format the report as a table for a terminal."""
        width = max(len(finding.check) for finding in self.findings)
        lines = [f"{self.store.url}: {self.store.rows:,} rows"]
        for check, level, _, message, examples in self.findings:
            more = f" ({', '.join(examples)}, ...)" if examples else ""
            lines.append(f"{level:<8} {check:<{width}}  {message}{more}")
        return "\n".join(lines)


def check_store(
    store: Store,
    *,
    score: Scorer | None = None,
    identify: Identifier | None = None,
    batch_rows: int = 1000,
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> StoreReport:
    """Read a store once, and report defects that harm a search or a fit.

    Args:
        store: Store to check.
        score: Maps n texts and their vectors [n, d] to n scores of how well each vector fits its text; larger is
            better.
        identify: Maps a sample of vectors and their texts to the model that made them, or None.
        batch_rows: Number of rows that are read at a time.
        seed: Random seed of the sample.
        advance: Called with the number of rows of each batch.

    Raises:
        BadInput: The store has no exact vectors.
    """
    description = store.describe()
    if not description.rows:
        return StoreReport(description, (Finding("rows", "error", 0, "The store is empty."),), None, None)
    if description.other_widths:
        return StoreReport(
            description, (_rows_finding(description, description.rows), _widths(description)), None, None
        )
    scan = _Scan(seed)
    for rows, _ in store.read(("id", "text", "vector"), batch_rows):
        scan.add(rows, score)
        advance(len(rows))
    findings = [
        _rows_finding(description, scan.rows),
        _widths(description),
        *scan.findings(description, score is not None),
    ]
    model = None
    if scan.sample:
        vectors = np.stack([vector for _, _, vector in scan.sample])
        findings.append(_populations(vectors, [i for i, _, _ in scan.sample]))
        with_text = [k for k, (_, text, _) in enumerate(scan.sample) if text]
        if identify and with_text:
            model = identify(vectors[with_text], [str(scan.sample[k][1]) for k in with_text])
            message = f"{model} made the vectors." if model else "No known model made the vectors."
            findings.append(Finding("model", "ok" if model else "note", len(with_text), message))
    norms = np.concatenate(scan.norms) if scan.norms else np.zeros(0)
    summary = tuple(float(v) for v in np.quantile(norms, [0, 0.5, 1])) if len(norms) else None
    return StoreReport(description, tuple(findings), summary, model)  # pyright: ignore[reportArgumentType]


class _Group:
    """Count and first ids of the rows with one property."""

    def __init__(self) -> None:
        self.count, self.examples = 0, list[str]()

    def add(self, ids: Sequence[str], mask: Any) -> None:
        positions = np.flatnonzero(np.asarray(mask))
        self.count += len(positions)
        self.examples += [ids[int(k)] for k in positions[: EXAMPLES - len(self.examples)]]


class _Scan:
    """Statistics of one pass over the rows. Memory per row: its norm, its score and two short digests."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.rows = 0
        self.groups = {name: _Group() for name in ("no vector", "not finite", "zero", "no text")}
        self.norms: list[np.ndarray] = []
        self.scores: list[tuple[str, float]] = []
        self.texts: dict[bytes, tuple[str, bytes]] = {}
        self.repeated, self.conflicting = _Group(), _Group()
        self.sample: list[tuple[str, str | None, np.ndarray]] = []
        self.usable = 0
        self.unscaled_ids: list[tuple[float, str]] = []

    def add(self, rows: pa.RecordBatch, score: Scorer | None) -> None:
        ids, texts = rows.column("id").to_pylist(), rows.column("text").to_pylist()
        column = rows.column("vector")
        present = column.is_valid().to_numpy(zero_copy_only=False)
        width = column.type.list_size
        vectors = np.zeros((len(rows), width), np.float32)
        vectors[present] = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        finite = np.isfinite(vectors).all(axis=1)
        norms = np.linalg.norm(np.where(finite.reshape(-1, 1), vectors, 0).astype(np.float64), axis=1)
        usable = present & finite & (norms > 0)
        has_text = np.array([bool(text and text.strip()) for text in texts])
        self.groups["no vector"].add(ids, ~present)
        self.groups["not finite"].add(ids, present & ~finite)
        self.groups["zero"].add(ids, present & finite & (norms == 0))
        self.groups["no text"].add(ids, ~has_text)
        self.norms.append(norms[usable])
        unscaled = np.flatnonzero(usable & (np.abs(norms - 1) > LENGTH_TOLERANCE))[:EXAMPLES]
        self.unscaled_ids += [(float(norms[k]), ids[k]) for k in unscaled]
        self._compare_repeated_texts(ids, texts, vectors, has_text & present)
        self._update_sample(ids, texts, vectors, usable)
        if score is not None and (has_text & usable).any():
            scored = np.flatnonzero(has_text & usable)
            scores = np.asarray(score([texts[k] for k in scored], vectors[scored]), np.float64)
            self.scores += [(ids[k], float(value)) for k, value in zip(scored, scores, strict=True)]
        self.rows += len(rows)

    def _compare_repeated_texts(
        self,
        ids: list[str],
        texts: list[str | None],
        vectors: Float32[np.ndarray, "n d"],
        usable: Bool[np.ndarray, " n"],
    ) -> None:
        """Count rows that repeat an earlier text, with a similar or a different vector."""
        repeats, differs = np.zeros(len(ids), bool), np.zeros(len(ids), bool)
        for k in np.flatnonzero(usable):
            text = blake2b(str(texts[k]).strip().encode(), digest_size=8).digest()
            direction = vectors[k] / max(float(np.linalg.norm(vectors[k])), 1e-30)
            signs = np.packbits(direction > 0)[:16].tobytes()  # near copies agree in almost all of 128 signs
            if text in self.texts:
                repeats[k] = True
                differs[k] = _hamming_distance(signs, self.texts[text][1]) > len(signs)  # one sign in eight
            else:
                self.texts[text] = (ids[k], signs)
        self.repeated.add(ids, repeats)
        self.conflicting.add(ids, differs)

    def _update_sample(
        self,
        ids: list[str],
        texts: list[str | None],
        vectors: Float32[np.ndarray, "n d"],
        usable: Bool[np.ndarray, " n"],
    ) -> None:
        """Update a uniform sample of all rows so far (reservoir sampling)."""
        for k in np.flatnonzero(usable):
            self.usable += 1
            row = (ids[k], texts[k], vectors[k].copy())
            if len(self.sample) < SAMPLE:
                self.sample.append(row)
            elif (slot := int(self.rng.integers(self.usable))) < SAMPLE:
                self.sample[slot] = row

    def findings(self, description: Description, scored: bool) -> list[Finding]:
        """Return the findings, the most important ones first."""
        findings = [
            self._group("no vector", "warning", "have no vector, so no search returns them. Embed or delete them."),
            self._group("not finite", "error", "have a vector with NaN or infinity. Embed them again."),
            self._group("zero", "error", "have a vector of zeros. Embed them again."),
            self._lengths(description),
            self._texts(description),
            _group_finding("duplicates", "note", self.repeated, "repeat the text of another row."),
            _group_finding(
                "same text, other vector",
                "warning",
                self.conflicting,
                "have the text of another row and a different vector. Two models, or two versions of one, made them.",
            ),
        ]
        if scored:
            findings.append(self._mismatches())
        return findings

    def _group(self, name: str, level: Level, message: str) -> Finding:
        return _group_finding(name, level, self.groups[name], message)

    def _texts(self, description: Description) -> Finding:
        if self.groups["no text"].count == self.rows:
            field = f"the field {description.fields.text!r}" if description.fields.text else "a field with a usual name"
            return Finding("no text", "warning", self.rows, f"No row has a text in {field}. Name the field: ?text=")
        return self._group("no text", "warning", "have no text, so they cannot be embedded again or used in a fit.")

    def _lengths(self, description: Description) -> Finding:
        norms = np.concatenate(self.norms) if self.norms else np.zeros(0)
        unscaled = int((np.abs(norms - 1) > LENGTH_TOLERANCE).sum())
        if not unscaled:
            return Finding("lengths", "ok", 0, "All vectors have unit length.")
        spread = f"from {norms.min():.3g} to {norms.max():.3g}, median {np.median(norms):.3g}"
        examples = tuple(i for _, i in self.unscaled_ids[:EXAMPLES])
        if unscaled == len(norms):
            level: Level = "warning" if description.metric == "dot" else "note"
            return Finding(
                "lengths", level, unscaled, f"No vector has unit length: {spread}. Normalize the queries as well."
            )
        return Finding(
            "lengths",
            "warning",
            unscaled,
            f"{_count_rows(unscaled)} do not have unit length, but the others do: {spread}. Normalize all of them.",
            examples,
        )

    def _mismatches(self) -> Finding:
        if not self.scores:
            return Finding("text and vector", "note", 0, "No row has a text and a vector to compare.")
        values = np.array([value for _, value in self.scores])
        low = robust_outliers(values)
        group = _Group()
        order = np.argsort(values)
        group.add([self.scores[k][0] for k in order], low[order])
        message = "have a vector that does not fit their text. The text changed later, or another model embedded it."
        return _group_finding("text and vector", "warning", group, message)


def robust_outliers(scores: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Mark scores more than `OUTLIER_DEVIATIONS` robust standard deviations (1.4826 MAD) below the median."""
    median = np.median(scores)
    spread = 1.4826 * np.median(np.abs(scores - median))
    return scores < median - OUTLIER_DEVIATIONS * max(float(spread), 1e-6)


def _hamming_distance(a: bytes, b: bytes) -> int:
    return (int.from_bytes(a, "little") ^ int.from_bytes(b, "little")).bit_count()


def _count_rows(n: int) -> str:
    return f"{n:,} row{'s' * (n != 1)}"


def _group_finding(check: str, level: Level, group: _Group, message: str) -> Finding:
    if not group.count:
        return Finding(check, "ok", 0, "None.")
    return Finding(check, level, group.count, f"{_count_rows(group.count)} {message}", tuple(group.examples))


def _rows_finding(description: Description, read: int) -> Finding:
    if read != description.rows:
        return Finding(
            "rows",
            "warning",
            read,
            f"The store counts {description.rows:,} rows, but {read:,} were read. Is another process writing to it?",
        )
    return Finding("rows", "ok", read, f"{read:,} rows, ids are {description.id_type}.")


def _widths(description: Description) -> Finding:
    if not description.other_widths:
        return Finding("widths", "ok", description.rows, f"All vectors have width {description.width}.")
    others = ", ".join(f"{n:,} of width {width}" for width, n in description.other_widths.items())
    return Finding(
        "widths",
        "error",
        sum(description.other_widths.values()),
        f"Most vectors have width {description.width}, {others}. Several models made them; nothing else was checked.",
    )


def _populations(vectors: Float32[np.ndarray, "n d"], ids: list[str]) -> Finding:
    populations = find_populations(vectors)
    if populations is None:
        return Finding("mixed models", "note", 0, "Too few rows to compare.")
    if not populations.mixed:
        return Finding(
            "mixed models",
            "ok",
            0,
            f"One model, as far as can be seen (alignment of its parts {populations.alignment:.2f}).",
        )
    fraction = float(populations.second.mean())
    return Finding(
        "mixed models",
        "error",
        int(populations.second.sum()),
        f"{fraction:.0%} of a sample of {len(ids):,} rows are unrelated to the others (alignment "
        f"{populations.alignment:.3f}). Two models made them; embed one part again.",
        tuple(ids[int(k)] for k in np.flatnonzero(populations.second)[:EXAMPLES]),
    )
