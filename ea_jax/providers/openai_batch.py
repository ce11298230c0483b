"""Read the request and result files of OpenAI's Batch API, and join them by `custom_id` and index."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from ea_jax.errors import BadInput
from ea_jax.providers.vectors import check_dimensions, check_vectors
from ea_jax.registry.spaces import Space


@dataclass(frozen=True)
class BatchPairs:
    """Texts of successful requests with their vectors, in the order of the request files.

    Attributes:
        texts: The texts.
        vectors: A vector for each text.
        model: Model that the requests name.
        failures: One sentence for each request without vectors.
    """

    texts: list[str]
    vectors: Float32[np.ndarray, "n d"]
    model: str
    failures: list[str]


@dataclass(frozen=True)
class _Request:
    texts: list[str]
    body: dict[str, Any]
    where: str


def read_batch(
    requests: Sequence[Path], results: Sequence[Path], space: Space, dimensions: int | None = None
) -> BatchPairs:
    """Join request files with result and error files, in any order.

    A request may have one text or several. If a request has several results, the first successful one counts.

    Args:
        requests: Files that were uploaded, one JSON object in each line.
        results: Output and error files of the batches.
        space: Space that the vectors must belong to.
        dimensions: The requested width; if None, that of the requests, or of the space.

    Raises:
        BadInput: A file is not one of the Batch API, a `custom_id` is repeated, a result belongs to no request, the
            requests differ in model or width, or a vector does not belong to the space.
    """
    by_id = _read_requests(requests)
    answers, reasons = _read_results(results, by_id)
    models = {str(request.body.get("model")) for request in by_id.values()}
    widths = {request.body.get("dimensions") for request in by_id.values()}
    for values, name in ((models, "models"), (widths, "dimensions")):
        if len(values) > 1:
            raise BadInput(
                f"The requests have several {name}: {', '.join(sorted(map(str, values)))}. Join them one by one."
            )
    requested = next(iter(widths), None)
    if dimensions is not None and requested not in (None, dimensions):
        raise BadInput(f"dimensions is {dimensions}, but the requests have {requested}. Leave it out.")
    dimensions = dimensions or requested
    check_dimensions(space, dimensions)
    texts: list[str] = []
    vectors: list[np.ndarray] = [np.zeros((0, dimensions or space.width), np.float32)]
    failures = []
    for name, request in by_id.items():
        if name not in answers:
            failures.append(f"{request.where}, {name}: {reasons.get(name, 'the result files have no result')}")
            continue
        where, items = answers[name]
        vectors.append(check_vectors(items, len(request.texts), space, where, dimensions=dimensions))
        texts += request.texts
    return BatchPairs(texts, np.concatenate(vectors), next(iter(models), ""), failures)


def _read_requests(files: Sequence[Path]) -> dict[str, _Request]:
    """Read the requests by `custom_id`."""
    by_id: dict[str, _Request] = {}
    for where, row in _rows(files):
        name, body = row.get("custom_id"), row.get("body")
        if not isinstance(name, str) or not isinstance(body, dict) or "input" not in body:
            raise BadInput(f"{where} is not a request of the Batch API: it lacks custom_id, body or body.input.")
        if name in by_id:
            raise BadInput(f"{where} repeats the custom_id {name!r} of {by_id[name].where}. Make each unique.")
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        if not isinstance(texts, list) or not texts or not all(map(_is_text, texts)):
            raise BadInput(
                f"{where} has an input that is not text: token ids, or damaged characters. Pairs need the texts."
            )
        by_id[name] = _Request(texts, body, where)
    return by_id


def _is_text(value: Any) -> bool:
    """Whether a value is a string that UTF-8 can encode."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _read_results(
    files: Sequence[Path], requests: dict[str, _Request]
) -> tuple[dict[str, tuple[str, list[tuple[Any, Any]]]], dict[str, str]]:
    """Read the items of successful results, and the reasons of failed ones, by `custom_id`."""
    answers: dict[str, tuple[str, list[tuple[Any, Any]]]] = {}
    reasons: dict[str, str] = {}
    for where, row in _rows(files):
        name = row.get("custom_id")
        if not isinstance(name, str) or not ("response" in row or "error" in row):
            raise BadInput(f"{where} is not a result of the Batch API: it lacks custom_id, or response and error.")
        if name not in requests:
            raise BadInput(f"{where} answers {name!r}, which is in no request file. Name all request files.")
        response = row.get("response") or {}
        body = response.get("body") or {}
        if response.get("status_code") == 200 and isinstance(body.get("data"), list) and not row.get("error"):
            items = [item if isinstance(item, dict) else {} for item in body["data"]]
            answers.setdefault(name, (f"{where}, {name}", [(i.get("index"), i.get("embedding")) for i in items]))
        else:
            error = row.get("error") or body.get("error") or {}
            message = error.get("message") if isinstance(error, dict) else error
            reasons[name] = f"status {response.get('status_code', 'unknown')}, {message or 'no reason given'}"
    return answers, reasons


def _rows(files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the JSON objects of files, each with its file and line for messages. Blank lines are ignored."""
    for file in files:
        try:
            with file.open(encoding="utf-8-sig") as lines:
                for number, line in enumerate(lines, 1):
                    if not line.strip():
                        continue
                    where = f"{file}, line {number}"
                    try:
                        row = json.loads(line)
                    except ValueError as error:
                        raise BadInput(f"{where} is not JSON: {error}.") from error
                    if not isinstance(row, dict):
                        raise BadInput(f"{where} is not a JSON object.")
                    yield where, row
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{file} cannot be read: {error}.") from error
