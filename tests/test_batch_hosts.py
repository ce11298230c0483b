"""A job on several devices, in several processes and on Ray gives what one process gives."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.conftest import unit_rows

ROOT = Path(__file__).parent.parent
EIGHT = """
import sys, jax, numpy as np
from ea_jax.batch.device import OnDevices, map_array
from ea_jax.loading import load
assert len(jax.local_devices()) == 8
adapt = load("toy-a", "toy-b")
x = np.load(sys.argv[1])
y = OnDevices(adapt).start(x).found[0]
assert len(y.sharding.device_set) == 8 and not y.is_fully_replicated
assert {shard.data.shape[0] for shard in y.addressable_shards} == {len(y) // 8}
np.save(sys.argv[2], map_array(adapt, x))
"""
TWO = """
import sys, jax
from pathlib import Path
port, index, given, out = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(index))
from ea_jax.batch.job import plan, run_job
from ea_jax.batch.named import Names, load_map
run = load_map(Names("toy-a", "toy-b"))
report = run_job(plan([given], Path(out), run, part_rows=100), run)
print(jax.process_count(), report.of_parts)
jax.distributed.shutdown()
"""
RAY = """
import sys, ray
from pathlib import Path
from ea_jax.batch.job import plan, run_job
from ea_jax.batch.named import Names, load_map
from ea_jax.ray import on_actors
given, out, workers = sys.argv[1:]
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
names = Names("toy-a", "toy-b")
run = load_map(names)
job = plan([given], Path(out), run, part_rows=100)
print("begun", flush=True)
report = run_job(job, run, work=on_actors(job, names, run.options, int(workers)))
print(report.parts, report.of_parts, flush=True)
"""


def environment(toy_root, devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    added = {"PYTHONPATH": str(ROOT), "EA_JAX_REGISTRY": str(toy_root), "XLA_FLAGS": flags}
    return os.environ | added | {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def python(code, *arguments, env):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process) -> str:
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out.strip().splitlines()[-1] if out.strip() else ""  # Gloo and Ray talk on stdout too


@pytest.fixture
def given(tmp_path):
    x = unit_rows(np.random.default_rng(1), 10_000, 8)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 8)
    parquet.write_table(pa.table({"id": range(len(x)), "v": lists}), tmp_path / "in.parquet", row_group_size=3000)
    return tmp_path / "in.parquet"


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def alone(toy_root, given, out: Path) -> dict[str, bytes]:
    """What one process writes."""
    code = RAY[: RAY.index("from ea_jax.ray")].replace(", ray\n", "\n") + "given, out, workers = sys.argv[1:]\n"
    code += "run = load_map(Names('toy-a', 'toy-b'))\nrun_job(plan([given], Path(out), run, part_rows=100), run)"
    finished(python(code, given, out, 0, env=environment(toy_root)))
    return parts(out)


@pytest.mark.slow
def test_eight_devices_share_the_rows_and_give_the_same(adapt, toy_root, tmp_path):
    x = unit_rows(np.random.default_rng(1), 5000, 8)
    np.save(tmp_path / "x.npy", x)
    finished(python(EIGHT, tmp_path / "x.npy", tmp_path / "y.npy", env=environment(toy_root, 8)))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), adapt(adapt.params, x), atol=1e-6)


@pytest.mark.slow
def test_two_processes_take_disjoint_parts_of_one_job(toy_root, given, tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    both = [python(TWO, port, i, given, tmp_path / "two", env=environment(toy_root)) for i in range(2)]
    assert [finished(process) for process in both] == ["2 100"] * 2
    assert parts(tmp_path / "two") == alone(toy_root, given, tmp_path / "one")
    manifest = json.loads((tmp_path / "two" / "_ea_jax" / "manifest.json").read_text())
    assert [part["start"] for part in manifest["parts"]] == list(range(0, 10_000, 100))


@pytest.mark.slow
def test_a_killed_ray_actor_costs_nothing(toy_root, given, tmp_path):
    pytest.importorskip("ray", reason="Ray is an extra")
    psutil = pytest.importorskip("psutil")
    process = python(RAY, given, tmp_path / "ray", 2, env=environment(toy_root))
    done, killed = tmp_path / "ray" / "_ea_jax" / "done", 0
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None and not killed:
        if done.is_dir() and len(list(done.iterdir())) >= 3:
            ours = psutil.Process(process.pid).children(recursive=True)
            actors = [child for child in ours if "PartActor" in " ".join(child.cmdline())]
            if actors:
                os.kill(actors[0].pid, signal.SIGKILL)
                killed = len(list(done.iterdir()))
        time.sleep(0.01)
    assert finished(process) == "100 100"
    assert 0 < killed < 100
    assert parts(tmp_path / "ray") == alone(toy_root, given, tmp_path / "one")


DATA = """
import sys, ray, numpy as np
from ea_jax.ray import MapVectors
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
ray.data.DataContext.get_current().enable_progress_bars = False
rows = ray.data.read_parquet(sys.argv[1]).map_batches(
    MapVectors, fn_constructor_args=("toy-a", "toy-b"), batch_format="pyarrow", concurrency=1, batch_size=1000
)
rows = sorted(rows.take_all(), key=lambda row: row["id"])
np.save(sys.argv[2], np.stack([row["v"] for row in rows]))
"""


@pytest.mark.slow
def test_ray_data_maps_batches_with_the_actor_class(adapt, toy_root, given, tmp_path):
    pytest.importorskip("ray", reason="Ray is an extra")
    finished(python(DATA, given, tmp_path / "y.npy", env=environment(toy_root)))
    x = np.array(parquet.read_table(given).column("v").to_pylist(), np.float32)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), adapt(adapt.params, x), atol=1e-6)
