"""The doctor of a store: what is in it, and what will spoil a search or a fit."""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Float32

from ea_jax.integrations.stores.protocol import Description, Store
from ea_jax.workflows.mixed_models import find_populations

Level = Literal["ok", "note", "warning", "error"]
Scorer = Callable[[list[str], Any], Any]
Identifier = Callable[[Any, list[str]], str | None]

SAMPLE = 1500  # rows for the comparison of populations, whose cost is cubic
EXAMPLES = 3
UNIT = 1e-2  # a norm this near to 1 is that of a unit vector, also after float16
OUTLYING = 6.0  # robust standard deviations below the median score: none of 10**8 rows by chance


class Finding(NamedTuple):
    """One check and its result.

    Attributes:
        rows: How many rows it concerns.
        message: What was seen, and what to do if it is not fine.
        examples: Ids of a few such rows.
    """

    check: str
    level: Level
    rows: int
    message: str
    examples: tuple[str, ...] = ()


class StoreReport(NamedTuple):
    """What was found in a store.

    Attributes:
        norms: Smallest, median and largest length of the finite vectors; None without vectors.
        model: The model that made the vectors, if one was recognized.
    """

    store: Description
    findings: tuple[Finding, ...]
    norms: tuple[float, float, float] | None
    model: str | None

    @property
    def ok(self) -> bool:
        """Whether there is neither a warning nor an error."""
        return all(finding.level in ("ok", "note") for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        store = self.store._asdict()
        store["fields"] = self.store.fields._asdict()
        findings = [finding._asdict() for finding in self.findings]
        return {"ok": self.ok, "store": store, "model": self.model, "norms": self.norms, "findings": findings}

    def __str__(self) -> str:
        """The report as a table for a terminal."""
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
    """Read a store once, and report what would spoil a search or a fit.

    Args:
        score: From n texts and their vectors [n, d] to how well each vector fits its text; larger is better.
        identify: From a sample of vectors and their texts to the model that made them, or None.
        batch_rows: Rows that are read at a time.
        seed: Of the sample for the comparison of populations.
        advance: Called with the number of rows of each batch.

    Raises:
        BadInput: The store keeps no exact vectors.
    """
    described = store.describe()
    if not described.rows:
        return StoreReport(described, (Finding("rows", "error", 0, "The store is empty."),), None, None)
    if described.other_widths:
        return StoreReport(described, (_rows_finding(described, described.rows), _widths(described)), None, None)
    scan = _Scan(seed)
    for rows, _ in store.read(("id", "text", "vector"), batch_rows):
        scan.add(rows, score)
        advance(len(rows))
    findings = [_rows_finding(described, scan.rows), _widths(described), *scan.findings(described, score is not None)]
    model = None
    if scan.sample:
        vectors = np.stack([vector for _, _, vector in scan.sample])
        findings.append(_populations(vectors, [i for i, _, _ in scan.sample]))
        with_text = [k for k, (_, text, _) in enumerate(scan.sample) if text]
        if identify and with_text:
            model = identify(vectors[with_text], [str(scan.sample[k][1]) for k in with_text])
            message = f"{model} made these vectors." if model else "No known model made these vectors."
            findings.append(Finding("model", "ok" if model else "note", len(with_text), message))
    norms = np.concatenate(scan.norms) if scan.norms else np.zeros(0)
    summary = tuple(float(v) for v in np.quantile(norms, [0, 0.5, 1])) if len(norms) else None
    return StoreReport(described, tuple(findings), summary, model)  # pyright: ignore[reportArgumentType]


class _Group:
    """Rows of one kind: how many, and the first few."""

    def __init__(self) -> None:
        self.count, self.examples = 0, list[str]()

    def add(self, ids: Sequence[str], chosen: Any) -> None:
        where = np.flatnonzero(np.asarray(chosen))
        self.count += len(where)
        self.examples += [ids[int(k)] for k in where[: EXAMPLES - len(self.examples)]]


class _Scan:
    """What one pass over the rows gathers. Of each row stay its norm, score and two digests of eight bytes."""

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
        said = np.array([bool(text and text.strip()) for text in texts])
        self.groups["no vector"].add(ids, ~present)
        self.groups["not finite"].add(ids, present & ~finite)
        self.groups["zero"].add(ids, present & finite & (norms == 0))
        self.groups["no text"].add(ids, ~said)
        self.norms.append(norms[usable])
        far = np.flatnonzero(usable & (np.abs(norms - 1) > UNIT))[:EXAMPLES]
        self.unscaled_ids += [(float(norms[k]), ids[k]) for k in far]
        self._compare(ids, texts, vectors, said & present)
        self._draw(ids, texts, vectors, usable)
        if score is not None and (said & usable).any():
            chosen = np.flatnonzero(said & usable)
            scores = np.asarray(score([texts[k] for k in chosen], vectors[chosen]), np.float64)
            self.scores += [(ids[k], float(value)) for k, value in zip(chosen, scores, strict=True)]
        self.rows += len(rows)

    def _compare(
        self,
        ids: list[str],
        texts: list[str | None],
        vectors: Float32[np.ndarray, "n d"],
        chosen: Bool[np.ndarray, " n"],
    ) -> None:
        """Look for texts that were there before, with the same or another vector."""
        again, differ = np.zeros(len(ids), bool), np.zeros(len(ids), bool)
        for k in np.flatnonzero(chosen):
            text = blake2b(str(texts[k]).strip().encode(), digest_size=8).digest()
            direction = vectors[k] / max(float(np.linalg.norm(vectors[k])), 1e-30)
            signs = np.packbits(direction > 0)[:16].tobytes()  # 128 signs: near copies agree in almost all
            if text in self.texts:
                again[k] = True
                differ[k] = _bits_apart(signs, self.texts[text][1]) > len(signs)  # an eighth of them
            else:
                self.texts[text] = (ids[k], signs)
        self.repeated.add(ids, again)
        self.conflicting.add(ids, differ)

    def _draw(
        self,
        ids: list[str],
        texts: list[str | None],
        vectors: Float32[np.ndarray, "n d"],
        usable: Bool[np.ndarray, " n"],
    ) -> None:
        """Keep a uniform sample of all rows so far (reservoir sampling)."""
        for k in np.flatnonzero(usable):
            self.usable += 1
            row = (ids[k], texts[k], vectors[k].copy())
            if len(self.sample) < SAMPLE:
                self.sample.append(row)
            elif (place := int(self.rng.integers(self.usable))) < SAMPLE:
                self.sample[place] = row

    def findings(self, described: Description, scored: bool) -> list[Finding]:
        """The findings of the pass, in the order in which they are worth reading."""
        made = [
            self._group("no vector", "warning", "have no vector. They are never found; embed or delete them."),
            self._group("not finite", "error", "have a vector with NaN or infinity. Embed them again."),
            self._group("zero", "error", "have a vector of zeros. Embed them again."),
            self._lengths(described),
            self._texts(described),
            _counted("duplicates", "note", self.repeated, "repeat the text of another row."),
            _counted(
                "same text, other vector",
                "warning",
                self.conflicting,
                "have the text of another row and a different vector. Two models, or two versions of one, wrote here.",
            ),
        ]
        if scored:
            made.append(self._misfits())
        return made

    def _group(self, name: str, level: Level, message: str) -> Finding:
        return _counted(name, level, self.groups[name], message)

    def _texts(self, described: Description) -> Finding:
        if self.groups["no text"].count == self.rows:
            field = f"the field {described.fields.text!r}" if described.fields.text else "any field of a usual name"
            return Finding("no text", "warning", self.rows, f"No row has a text in {field}. Name the field: ?text=")
        return self._group("no text", "warning", "have no text. They cannot be embedded again or fitted on.")

    def _lengths(self, described: Description) -> Finding:
        norms = np.concatenate(self.norms) if self.norms else np.zeros(0)
        far = int((np.abs(norms - 1) > UNIT).sum())
        if not far:
            return Finding("lengths", "ok", 0, "All vectors have unit length.")
        spread = f"from {norms.min():.3g} to {norms.max():.3g}, median {np.median(norms):.3g}"
        examples = tuple(i for _, i in self.unscaled_ids[:EXAMPLES])
        if far == len(norms):
            level: Level = "warning" if described.metric == "dot" else "note"
            return Finding("lengths", level, far, f"No vector has unit length: {spread}. Normalize queries as well.")
        return Finding(
            "lengths",
            "warning",
            far,
            f"{_rows(far)} not of unit length while the others are: {spread}. Two programs wrote here; normalize all.",
            examples,
        )

    def _misfits(self) -> Finding:
        if not self.scores:
            return Finding("text and vector", "note", 0, "No row has a text and a vector to compare.")
        values = np.array([value for _, value in self.scores])
        low = robust_outliers(values)
        group = _Group()
        order = np.argsort(values)
        group.add([self.scores[k][0] for k in order], low[order])
        message = "have a vector that does not fit their text. Their text was changed, or another model embedded them."
        return _counted("text and vector", "warning", group, message)


def robust_outliers(scores: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Which scores lie far below the others: `OUTLYING` robust standard deviations (1.4826 MAD) below the median."""
    median = np.median(scores)
    spread = 1.4826 * np.median(np.abs(scores - median))
    return scores < median - OUTLYING * max(float(spread), 1e-6)


def _bits_apart(a: bytes, b: bytes) -> int:
    return (int.from_bytes(a, "little") ^ int.from_bytes(b, "little")).bit_count()


def _rows(n: int) -> str:
    return f"{n:,} {'row is' if n == 1 else 'rows are'}"


def _counted(check: str, level: Level, group: _Group, message: str) -> Finding:
    if not group.count:
        return Finding(check, "ok", 0, "None.")
    return Finding(check, level, group.count, f"{group.count:,} rows {message}", tuple(group.examples))


def _rows_finding(described: Description, read: int) -> Finding:
    if read != described.rows:
        return Finding(
            "rows", "warning", read, f"{described.rows:,} are counted, but {read:,} were read. Was it being written?"
        )
    return Finding("rows", "ok", read, f"{read:,} rows, ids are {described.id_type}.")


def _widths(described: Description) -> Finding:
    if not described.other_widths:
        return Finding("widths", "ok", described.rows, f"All vectors have width {described.width}.")
    others = ", ".join(f"{n:,} of width {width}" for width, n in described.other_widths.items())
    return Finding(
        "widths",
        "error",
        sum(described.other_widths.values()),
        f"Most vectors have width {described.width}, {others}. Several models wrote here; nothing else was checked.",
    )


def _populations(vectors: Float32[np.ndarray, "n d"], ids: list[str]) -> Finding:
    found = find_populations(vectors)
    if found is None:
        return Finding("mixed models", "note", 0, "Too few rows to tell.")
    if not found.mixed:
        return Finding("mixed models", "ok", 0, f"One population (alignment {found.alignment:.2f} of its parts).")
    share = float(found.second.mean())
    return Finding(
        "mixed models",
        "error",
        int(found.second.sum()),
        f"{share:.0%} of a sample of {len(ids):,} are unrelated to the rest (alignment {found.alignment:.3f}). "
        "Two models wrote here; embed one part again.",
        tuple(ids[int(k)] for k in np.flatnonzero(found.second)[:EXAMPLES]),
    )
