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

from ea_jax.loading import load, load_encoder, load_quality
from tests.conftest import unit_rows

ROOT = Path(__file__).parent.parent.parent
EIGHT = """
import sys, jax, numpy as np
from ea_jax.batch.device import DeviceRunner, map_array
from ea_jax.loading import load
assert len(jax.local_devices()) == 8
adapt = load("toy-a", "toy-b")
x = np.load(sys.argv[1])
y = DeviceRunner(adapt).start(x).outputs[0]
assert len(y.sharding.device_set) == 8 and not y.is_fully_replicated
assert {shard.data.shape[0] for shard in y.addressable_shards} == {len(y) // 8}
np.save(sys.argv[2], map_array(adapt, x))
"""
RAY = """
import json, sys, ray, numpy as np
from pathlib import Path
from ea_jax.batch.job import plan, run_job
from ea_jax.batch.load import MapConfig, load_map
from ea_jax.cli import main
from ea_jax.integrations.ray import MapTexts, MapVectors, on_actors
given, texts, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
ray.data.DataContext.get_current().enable_progress_bars = False
config = MapConfig("toy-a", "toy-b")
run = load_map(config)
job = plan([given], folder / "killed", run, part_rows=100)
report = run_job(job, run, work=on_actors(job, config, run.options, 2))
print(report.parts, report.of_parts, flush=True)

def mapped(file, actor, *names, **options):
    data = ray.data.read_parquet(file).map_batches(
        actor, fn_constructor_args=names, batch_format="pyarrow", concurrency=1, batch_size=1000, **options
    )
    return sorted(data.take_all(), key=lambda row: row["id"])

np.save(folder / "vectors.npy", np.stack([row["v"] for row in mapped(given, MapVectors, "toy-a", "toy-b")]))
rows = mapped(texts, MapTexts, "wordllama", "oai-3-small", fn_constructor_kwargs={"confidence": True})
np.savez(folder / "texts.npz", **{name: np.stack([row[name] for row in rows]) for name in ("embedding", "confidence")})
sys.argv = ["ea-jax", "map", given, str(folder / "cli"), "--source", "toy-a", "--target", "toy-b"]
sys.argv += ["--part-rows", "100", "--engine", "ray", "--workers", "2"]
ray.shutdown()
try:
    main()
finally:
    assert not ray.is_initialized()
"""


def environment(toy_root, devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    added = {"PYTHONPATH": str(ROOT), "EA_JAX_REGISTRY": str(toy_root), "XLA_FLAGS": flags}
    return os.environ | added | {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def python(*arguments, env):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process) -> str:
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out.strip()


MAP = ("-m", "ea_jax.cli", "map")
HOW = ("--source", "toy-a", "--target", "toy-b", "--part-rows", "100")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    x = unit_rows(np.random.default_rng(1), 10_000, 8)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 8)
    file = tmp_path_factory.mktemp("given") / "in.parquet"
    parquet.write_table(pa.table({"id": range(len(x)), "v": lists}), file, row_group_size=3000)
    return file


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


@pytest.fixture(scope="module")
def alone(toy_root, given) -> dict[str, bytes]:
    """What one process writes."""
    out = given.with_name("alone")
    finished(python(*MAP, given, out, *HOW, env=environment(toy_root)))
    return parts(out)


@pytest.mark.slow
def test_eight_devices_share_the_rows_and_give_the_same(adapt, toy_root, tmp_path):
    x = unit_rows(np.random.default_rng(1), 5000, 8)
    np.save(tmp_path / "x.npy", x)
    finished(python("-c", EIGHT, tmp_path / "x.npy", tmp_path / "y.npy", env=environment(toy_root, 8)))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), adapt(adapt.params, x), atol=1e-6)


@pytest.mark.slow
def test_two_processes_take_disjoint_parts_of_one_job(toy_root, given, alone, tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    slurm = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
    slurm |= {"JAX_COORDINATOR_PORT": str(port)} | environment(toy_root)
    command = (*MAP, given, tmp_path / "two", *HOW, "--distributed")
    both = [python(*command, env=slurm | {"SLURM_PROCID": str(i)}) for i in range(2)]
    assert [finished(process) for process in both] == [str(tmp_path / "two")] * 2
    assert parts(tmp_path / "two") == alone
    manifest = json.loads((tmp_path / "two" / "_ea_jax" / "manifest.json").read_text())
    assert [part["start"] for part in manifest["parts"]] == list(range(0, 10_000, 100))


@pytest.fixture(scope="module")
def ray_run(toy_root, given, tmp_path_factory):
    """A folder of what one local Ray made, whose first job lost an actor after some parts."""
    pytest.importorskip("ray", reason="Ray is an extra")
    psutil = pytest.importorskip("psutil")
    folder = tmp_path_factory.mktemp("ray")
    parquet.write_table(pa.table({"id": range(len(TEXTS)), "text": TEXTS}), folder / "texts.parquet")
    process = python("-c", RAY, given, folder / "texts.parquet", folder, env=environment(toy_root))
    done, killed = folder / "killed" / "_ea_jax" / "done", 0
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None and not killed:
        if done.is_dir() and len(list(done.iterdir())) >= 3:
            ours = psutil.Process(process.pid).children(recursive=True)
            actors = [child for child in ours if "PartActor" in " ".join(child.cmdline())]
            if actors:
                os.kill(actors[0].pid, signal.SIGKILL)
                killed = len(list(done.iterdir()))
        time.sleep(0.01)
    assert finished(process).splitlines()[-1] == str(folder / "cli")  # before it, the script's own Ray may have talked
    assert 0 < killed < 100
    return folder


TEXTS = [f"a text about {word}" for word in ("rivers", "glass", "tax law", "yeast")] * 10


@pytest.mark.slow
def test_a_killed_ray_actor_costs_nothing(ray_run, alone):
    assert parts(ray_run / "killed") == alone


@pytest.mark.slow
def test_the_command_line_runs_a_job_on_ray(ray_run, alone):
    assert parts(ray_run / "cli") == alone


@pytest.mark.slow
def test_ray_data_maps_vectors_with_the_actor_class(adapt, ray_run, given):
    x = np.array(parquet.read_table(given).column("v").to_pylist(), np.float32)
    np.testing.assert_allclose(np.load(ray_run / "vectors.npy"), adapt(adapt.params, x), atol=1e-6)


@pytest.mark.slow
def test_ray_data_maps_texts_with_the_actor_class(ray_run):
    encode = load_encoder("wordllama")
    adapt, quality = (f("wordllama", "oai-3-small") for f in (load, load_quality))
    x, found = encode(TEXTS), np.load(ray_run / "texts.npz")
    np.testing.assert_allclose(found["embedding"], adapt(adapt.params, x), atol=1e-4)  # products in bfloat16, maybe
    np.testing.assert_allclose(found["confidence"], quality(quality.params, x).confidence, atol=1e-3)
