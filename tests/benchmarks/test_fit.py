"""The tables of the fit benchmark on synthetic rows, and its search on a small example."""

import math

import numpy as np
import pytest

from benchmarks.fit import __main__ as fit
from benchmarks.machine import RESULTS
from benchmarks.readme import FRONT_PAGE, README, table_of

MEASURED = RESULTS / "fit.json"


def synthetic_rows() -> dict[str, fit.Figures]:
    """All rows of a full run, with R@1 = .1 + seed / 10."""
    rows: dict[str, fit.Figures] = {name: {t: {"r1": 0.5, "r10": 0.9} for t in fit.TESTS} for name in fit.KEEP}
    for key in fit.planned_fits():
        tests = ("own",) if key.protocol == fit.OWN else ("in", "across", "new")
        figures = {test: {"r1": 0.1 + key.seed / 10, "r10": 0.4, "cosine": 0.7} for test in tests}
        rows[str(key)] = {"pairs": 1, "seconds": 2.0, **figures}
    return rows


def test_a_summary_has_the_mean_and_range_of_the_seeds():
    cell = fit.summarize(synthetic_rows())["standard"]["ours"]["1,000"]
    assert cell["seeds"] == 3
    assert cell["in"]["r1"] == {"mean": pytest.approx(0.2), "spread": pytest.approx(0.2)}


def test_the_tables_are_complete():
    rows = synthetic_rows()
    assert fit.is_complete(rows)
    lines = fit.table(fit.summarize(rows)).splitlines()
    assert len(lines) == 2 + len(fit.METHODS) + len(fit.KEEP)
    assert len({line.count("|") for line in lines}) == 1
    assert ".200 / .400" in lines[2]
    assert "| .500 / .900 |" in lines[-1]
    assert fit.own_table(fit.summarize(rows)).splitlines()[2].startswith("| R@1 | .100 | .200 |")


def test_a_missing_row_is_detected():
    rows = synthetic_rows()
    del rows[str(fit.Key(fit.OWN, "ours-plus", math.inf, 2))]
    assert not fit.is_complete(rows)


def test_a_query_in_the_index_is_not_its_own_neighbor():
    angles = np.radians([0, 10, 30, 60, 61, 100, 120, 140, 160, 180, 200, 220, 240])
    y = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    test = fit.Test({}, y, {}, y, itself=True)
    assert list(test.true[:5]) == [1, 0, 1, 4, 3]
    assert test.figures(y, y) == {"r1": 1.0, "r10": 1.0}


def test_calibration_error_is_the_gap_between_confidence_and_hits():
    confidence = np.full(100, 0.75)
    assert fit.calibration_error(confidence, np.ones(100)) == pytest.approx(0.25)


@pytest.mark.skipif(not MEASURED.exists(), reason="`make bench` has not measured it yet")
@pytest.mark.parametrize("block", ["fit", "fit confidence", "fit time", "own index"])
def test_the_readmes_have_the_tables_of_the_results(block):
    file = FRONT_PAGE if block == "own index" else README
    assert f"<!-- {block} -->\n{table_of(block)}\n<!-- end -->" in file.read_text()
