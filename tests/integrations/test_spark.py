"""The README's example for Spark, on a real local Spark, where there is one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ea_jax.loading import load
from tests.conftest import unit_rows
from tests.test_readme import ROOT, blocks

SESSION = """
import sys
from pyspark.sql import SparkSession
given, out = sys.argv[1:]
settings = {"spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
spark = SparkSession.builder.master("local[1]").config(map=settings).getOrCreate()
frame = spark.read.parquet(given)
"""
WRITE = """
mapped.write.parquet(out)
spark.stop()
"""


@pytest.mark.slow
def test_the_example_for_spark_maps_a_frame(tmp_path):
    pytest.importorskip("pyspark", reason="pyspark is an extra")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    x = unit_rows(np.random.default_rng(1), 5000, 384)
    lists = pa.array(list(x), pa.list_(pa.float32()))
    parquet.write_table(pa.table({"id": range(len(x)), "vector": lists}), tmp_path / "in.parquet")
    (block,) = blocks("python spark")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
    }
    command = [sys.executable, "-c", SESSION + block + WRITE, str(tmp_path / "in.parquet"), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = parquet.read_table(Path(tmp_path / "out")).sort_by("id")
    assert found.column("id").to_pylist() == list(range(5000))
    adapt = load("minilm", "oai-3-small")
    y = np.asarray(adapt(adapt.params, x))
    np.testing.assert_allclose(np.array(found.column("vector").to_pylist()), y, atol=1e-4)
