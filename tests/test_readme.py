"""The README runs: its Python blocks in order, and each console command, whose output it shows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import unit_rows

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONSOLE = "".join(re.findall(r"```console\n(.*?)```", README, re.S))
COMMANDS = [(command, output) for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", CONSOLE, re.M)]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", README, re.S)


@pytest.mark.slow
def test_the_python_blocks_run_in_order(minilm):
    names = {"texts": [f"note {i} of document {i % 20}" for i in range(200)]}
    names["vectors"] = unit_rows(np.random.default_rng(0), 200, 1536)
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["y"].shape == names["q"].shape == names["translated_embs"].shape == (1, 1536)
    assert names["fitted"].report["pairs"] == 200
    assert 0 <= names["after"] <= 1


@pytest.mark.parametrize(("command", "output"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_console_blocks_show_what_the_commands_print(minilm, command, output):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "COLUMNS": "80"}
    found = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=True)
    pattern = "(?:.|\n)*?".join(re.escape(part) for part in output.split("..."))
    assert re.fullmatch(pattern, found.stdout), found.stdout
    assert found.stderr == ""


def test_the_table_of_encoders_is_the_benchmarks():
    from benchmarks.speed.encoder import table

    measured = json.loads((ROOT / "benchmarks" / "results" / "encoder.json").read_text())
    assert f"<!-- encoder -->\n{table(measured['figures'], measured['padding'])}\n<!-- end -->" in README


def test_the_table_of_adapters_is_the_benchmarks():
    from benchmarks.speed.seed_network import table

    measured = json.loads((ROOT / "benchmarks" / "results" / "seed_network.json").read_text())["figures"]
    assert f"<!-- speed -->\n{table(measured)}\n<!-- end -->" in README


def test_the_table_of_batch_jobs_is_the_benchmarks():
    from benchmarks.batch.__main__ import report

    measured = json.loads((ROOT / "benchmarks" / "results" / "batch.json").read_text())
    assert f"<!-- batch -->\n{report(measured)}\n<!-- end -->" in README


def test_the_make_targets_that_it_names_are_there():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make (\w+)|^make (\w+)", README, re.M)):
        assert re.search(rf"^{max(target)}:", makefile, re.M), target
