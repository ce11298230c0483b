"""Two reports over the same queries: which adapter is better, and how surely?"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ea_jax.bootstrap import difference
from ea_jax.errors import BadInput

SURE = 0.05


def read_report(path: Path) -> dict[str, Any]:
    """A report as `--json` printed it.

    Raises:
        BadInput: It is none.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as a report: {error}.") from error
    if not isinstance(told, dict) or not {"per_query", "data", "protocol"} <= told.keys():
        raise BadInput(f"{path} is no report; `ea-jax eval --json` prints one.")
    return told


def compared(a: Mapping[str, Any], b: Mapping[str, Any], seed: int = 0) -> dict[str, dict[str, Any]]:
    """By figure: its means, B less A with its interval and p value (paired bootstrap), and a verdict.

    Raises:
        BadInput: The reports are not over the same queries and protocol.
    """
    for name in ("data", "protocol"):
        if a[name] != b[name]:
            raise BadInput(
                f"The reports differ in their {name}: {a[name]} and {b[name]}. Judge both on the same trial."
            )
    told = {}
    for name in a["per_query"].keys() & b["per_query"].keys() - {"equal@10"}:
        p, q = (np.asarray(side["per_query"][name], np.float64) for side in (a, b))
        found = difference(p, q, seed)
        verdict = "no clear difference"
        if found.p_value < SURE:
            verdict = "B is better" if found.value > 0 else "A is better"
        told[name] = {"a": float(np.nanmean(p)), "b": float(np.nanmean(q)), **found._asdict(), "verdict": verdict}
    return dict(sorted(told.items()))
