"""The fit benchmark's tables on rows made up here, and its neighbor search on vectors small enough to check by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fit import __main__ as fit

ROOT = Path(__file__).parent.parent.parent
MEASURED = ROOT / "benchmarks" / "results" / "fit.json"


def made_up() -> dict[str, fit.Figures]:
    """Every row that a full run has; R@1 is a tenth of the seed more than .1."""
    rows: dict[str, fit.Figures] = {name: {t: {"r1": 0.5, "r10": 0.9} for t in fit.TESTS} for name in fit.KEEP}
    for key in fit.planned_fits():
        tests = ("own",) if key.protocol == fit.OWN else ("in", "across", "new")
        figures = {test: {"r1": 0.1 + key.seed / 10, "r10": 0.4, "cosine": 0.7} for test in tests}
        rows[str(key)] = {"pairs": 1, "seconds": 2.0, **figures}
    return rows


def test_a_row_is_the_mean_of_its_seeds_with_their_range():
    cell = fit.summarize(made_up())["standard"]["ours"]["1,000"]
    assert cell["seeds"] == 3
    assert cell["in"]["r1"] == {"mean": pytest.approx(0.2), "spread": pytest.approx(0.2)}


def test_the_tables_have_a_row_for_each_method_and_no_gap():
    rows = made_up()
    assert fit.is_complete(rows)
    lines = fit.table(fit.summarize(rows)).splitlines()
    assert len(lines) == 2 + len(fit.METHODS) + len(fit.KEEP)
    assert len({line.count("|") for line in lines}) == 1
    assert ".200 / .400" in lines[2]
    assert "| .500 / .900 |" in lines[-1]
    assert fit.own_table(fit.summarize(rows)).splitlines()[2].startswith("| R@1 | .100 | .200 |")


def test_a_row_that_is_missing_is_noticed():
    rows = made_up()
    del rows[str(fit.Key(fit.OWN, "ours-plus", math.inf, 2))]
    assert not fit.is_complete(rows)


def test_a_query_of_the_index_is_not_its_own_neighbor():
    angles = np.radians([0, 10, 30, 60, 61, 100, 120, 140, 160, 180, 200, 220, 240])
    y = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    test = fit.Test({}, y, {}, y, itself=True)
    assert list(test.true[:5]) == [1, 0, 1, 4, 3]
    assert test.figures(y, y) == {"r1": 1.0, "r10": 1.0}


def test_calibration_error_is_the_gap_between_confidence_and_hits():
    confidence = np.full(100, 0.75)
    assert fit.calibration_error(confidence, np.ones(100)) == pytest.approx(0.25)


@pytest.mark.skipif(not MEASURED.exists(), reason="`make bench` has not measured it yet")
def test_the_tables_of_the_readme_are_the_benchmarks():
    readme = (ROOT / "README.md").read_text()
    summary = json.loads(MEASURED.read_text())["learning_curves"]["figures"]
    assert f"<!-- fit -->\n{fit.note(summary)}\n\n{fit.table(summary)}\n<!-- end -->" in readme
    assert f"<!-- own index -->\n{fit.own_table(summary)}\n<!-- end -->" in readme
