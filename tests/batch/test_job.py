"""The job over files: every format, every stop, every bad row; oracles are float64 NumPy and the job not stopped."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from ea_jax.batch import BatchMap, Options
from ea_jax.batch.job import plan, run_job
from ea_jax.batch.state import status
from ea_jax.data import provenance
from ea_jax.data.blocks import Hints
from ea_jax.data.tables import find_files
from ea_jax.errors import BadInput
from ea_jax.io.atomic import hold_shared_lock
from tests.batch.test_batch_map import plain
from tests.conftest import unit_rows
from tests.support.tables import write_table

ROWS = 250
F32 = pa.float32()
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent.parent), "JAX_NUM_CPU_DEVICES": "1"}


@pytest.fixture
def x():
    return unit_rows(np.random.default_rng(1), ROWS, 8)


def write(path: Path, x, kind=F32, fixed=True) -> Path:
    """The same rows in any format."""
    lists = pa.array(x.tolist(), pa.list_(kind, x.shape[1]) if fixed else pa.list_(kind))
    table = pa.table({"id": pa.array(range(len(x))), "v": lists, "note": [f"nö, {i}" for i in range(len(x))]})
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=70)
    elif path.suffix == ".arrow":
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table, 33)
    elif path.suffix == ".npy":
        np.save(path, x)
    elif path.suffix == ".npz":
        np.savez(path, v=x, id=np.arange(len(x)), note=np.array(table.column("note").to_pylist()))
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist()))
    return path


def read(path: Path, column="v"):
    """Vectors and ids of a file, by other readers than ours."""
    if path.suffix == ".parquet":
        table = parquet.read_table(path)
    elif path.suffix == ".arrow":
        table = pa.ipc.open_file(path).read_all()
    elif path.suffix == ".npy":
        return np.load(path), None
    elif path.suffix == ".npz":
        found = np.load(path)
        return found[column], found["id"].tolist()
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return np.array([row[column] for row in rows]), [row["id"] for row in rows]
    return np.array(table.column(column).to_pylist()), table.column("id").to_pylist()


def job(adapt, given, out, part_rows=64, rejects=None, format=None, **options):
    """Run a job in parts of a few rows, and batches of fewer."""
    run = BatchMap(adapt, options=Options(**{"rows": 40, "column": "v", **options}))
    return run_job(
        plan([str(path) for path in given], out, run, format=format, part_rows=part_rows), run, rejects=rejects
    )


def stopping_at(number: int, then=None, calls=None):
    """A `BatchMap._finish` that is interrupted at its n-th call, or does something else then."""
    finish, calls = BatchMap._finish, [] if calls is None else calls

    def fails(self, *arguments):
        calls.append(1)
        if len(calls) == number:
            if then is None:
                raise KeyboardInterrupt
            then()
        return finish(self, *arguments)

    return fails


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and "lock" not in path.name]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("before", [".parquet", ".arrow", ".npy", ".npz", ".jsonl"])
@pytest.mark.parametrize("after", [".parquet", ".arrow", ".npy", ".npz", ".jsonl"])
def test_every_format_goes_to_every_other(adapt, x, tmp_path, before, after):
    given, out = write(tmp_path / f"in{before}", x), tmp_path / f"out{after}"
    report = job(adapt, [given], out, vectors_only=after == ".npy")
    y, ids = read(out) if before != ".npy" else (read(out)[0] if after == ".npy" else None, None)
    if y is not None:
        np.testing.assert_allclose(y, plain(adapt, x), atol=1e-5)
    assert ids in (None, list(range(ROWS)))
    assert report.totals[:2] == (ROWS, ROWS)
    assert not (tmp_path / f"out{after}.job" / "parts").exists()


@pytest.mark.parametrize("kind", [pa.float16(), pa.float64()])
def test_a_folder_of_parts_has_all_rows_and_says_what_made_them(adapt, x, tmp_path, kind):
    write(tmp_path / "a.parquet", x[:100], kind), write(tmp_path / "b.parquet", x[100:], kind)
    job(adapt, [tmp_path / "*.parquet"], tmp_path / "out")
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    assert [parquet.read_metadata(part).num_rows for part in parts] == [64, 36, 64, 64, 22]
    exact = np.asarray(x, np.float16 if kind == pa.float16() else np.float64)
    np.testing.assert_allclose(np.concatenate([read(part)[0] for part in parts]), plain(adapt, exact), atol=1e-5)
    assert parquet.read_table(tmp_path / "out").num_rows == ROWS  # what is not of the output is passed over
    facts = provenance.read(parquet.read_schema(parts[0]))
    assert facts["target"] == "toy/target"
    assert len(facts["params"]) == 64


def test_files_are_found_by_folder_and_glob_and_once(tmp_path, x):
    for name in ("b.npy", "sub/a.npy", "_skipped.npy", ".hidden/c.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, x)
    assert find_files([str(tmp_path)]) == [tmp_path / "b.npy", tmp_path / "sub" / "a.npy"]
    assert find_files([str(tmp_path / "**" / "a.npy")]) == [tmp_path / "sub" / "a.npy"]
    with pytest.raises(BadInput, match=r"b\.npy is named twice"):
        find_files([str(tmp_path), str(tmp_path / "b.npy")])
    with pytest.raises(BadInput, match="is not a file, a glob"):
        find_files([str(tmp_path / "*.parquet")])


@pytest.mark.parametrize("after", ["out", "out.parquet", "out.npz"])
@pytest.mark.parametrize("stop_at", [1, 3, 6])
def test_a_stopped_job_ends_with_the_same_bytes(adapt, x, tmp_path, monkeypatch, after, stop_at):
    given = write(tmp_path / "in.parquet", x)
    (tmp_path / "whole").mkdir(), (tmp_path / "stopped").mkdir()
    job(adapt, [given], tmp_path / "whole" / after)
    calls = []
    monkeypatch.setattr(BatchMap, "_finish", stopping_at(stop_at, calls=calls))
    with pytest.raises(KeyboardInterrupt):
        job(adapt, [given], tmp_path / "stopped" / after)
    before = status(tmp_path / "stopped" / after)
    assert before["state"] == "stopped"
    job(adapt, [given], tmp_path / "stopped" / after)
    assert len(calls) == stop_at + 8 - 2 * before["parts"]  # what was whole is not done again
    assert digests(tmp_path / "stopped") == digests(tmp_path / "whole")
    assert status(tmp_path / "stopped" / after)["state"] == "done"
    calls.clear()
    job(adapt, [given], tmp_path / "stopped" / after)
    assert not calls


def test_another_job_with_the_same_output_is_refused(adapt, x, tmp_path):
    given, out = write(tmp_path / "in.parquet", x), tmp_path / "out"
    job(adapt, [given], out)
    with pytest.raises(BadInput, match=r"options dtype was float32 and is int8.*start over"):
        job(adapt, [given], out, dtype="int8")
    write(given, x[:200])
    with pytest.raises(BadInput, match=r"input .*in\.parquet was [\d,]+ bytes and is [\d,]+ bytes"):
        job(adapt, [given], out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(BadInput, match="contains other files"):
        job(adapt, [given], tmp_path / "mine")
    with pytest.raises(BadInput, match="both input and output"):
        job(adapt, [given], given)


@pytest.mark.parametrize("kind", [".parquet", ".npy", ".jsonl"])
@pytest.mark.parametrize("done", [True, False], ids=["done", "half done"])
def test_an_edit_is_refused_and_a_touch_is_not(adapt, x, tmp_path, monkeypatch, kind, done):
    given, out = write(tmp_path / f"in{kind}", x), tmp_path / "out"
    before = given.stat()
    if done:
        job(adapt, [given], out)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(BatchMap, "_finish", stopping_at(5))
            with pytest.raises(KeyboardInterrupt):
                job(adapt, [given], out)
    given.touch()
    moved = given.rename(tmp_path / "moved")
    shutil.copy(moved, given)
    assert job(adapt, [given], out).totals.written == ROWS  # the same rows in another file
    x[100] = -x[100]
    write(given, x)
    os.truncate(given, before.st_size)  # a minus more, of lines
    os.utime(given, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BadInput, match=r"rows 64 to 127 of .*in\.\w+ have changed since they were mapped.*start over"):
        job(adapt, [given], out)


def test_an_input_that_changes_under_a_running_job_ends_it(adapt, x, tmp_path, monkeypatch):
    given, out = write(tmp_path / "in.npy", x), tmp_path / "out"
    planned = plan([str(given)], out, run := BatchMap(adapt, options=Options(rows=40, column="v")), part_rows=64)
    finish = stopping_at(7, lambda: write(given, np.roll(x, 1, axis=0)))
    monkeypatch.setattr(BatchMap, "_finish", finish)
    with pytest.raises(BadInput, match=r"rows \d+ to \d+ of .*in\.npy have changed since"):
        run_job(planned, run)
    assert status(out)["state"] == "stopped"


def test_two_jobs_on_one_output_do_not_mix(adapt, x, tmp_path):
    given, out = write(tmp_path / "in.parquet", x), tmp_path / "out"
    job(adapt, [given], out)
    lock = hold_shared_lock(out / "_ea_jax" / "lock", "out", exclusive=True)
    with lock, pytest.raises(BadInput, match="already being written by another"):
        job(adapt, [given], out)


def test_bad_rows_stop_the_job_or_are_listed(adapt, x, tmp_path):
    rows = x.tolist()
    rows[70], rows[130], rows[200] = None, [0.0] * 8, [1.0]
    given = tmp_path / "in.parquet"
    parquet.write_table(pa.table({"id": [f"r{i}" for i in range(ROWS)], "v": rows}), given)
    with pytest.raises(BadInput, match=r"in\.parquet, row 70, column v: the value is null"):
        job(adapt, [given], tmp_path / "out")
    assert status(tmp_path / "out")["parts"] == 1
    how = {"skip": True, "rejects": tmp_path / "bad.jsonl"}
    report = job(adapt, [given], tmp_path / "skipped", id_column="id", **how)
    assert report.totals == (250, 247, 3, 0, 0)
    listed = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [(row["row"], row["id"]) for row in listed] == [(70, "r70"), (130, "r130"), (200, "r200")]
    assert listed[1]["reason"] == "the vector is zero"
    job(adapt, [given], tmp_path / "out", **how)  # the stopped one goes on, as its error says
    y = np.concatenate([read(part)[0] for part in sorted((tmp_path / "out").glob("*.parquet"))])
    np.testing.assert_allclose(y, plain(adapt, np.delete(x, [70, 130, 200], 0)), atol=1e-5)
    with pytest.raises(BadInput, match="skipped 3 bad rows"):
        job(adapt, [given], tmp_path / "out")
    report = job(adapt, [given], tmp_path / "null", where_null="drop", **how)
    assert report.totals == (250, 247, 2, 1, 0)


def test_lines_that_cannot_be_parsed_stop_or_are_skipped(adapt, x, tmp_path):
    lines = write(tmp_path / "in.jsonl", x).read_text().splitlines()
    lines[3], lines[66] = '{"id": 3, "v": "text"}', "{broken"
    lines[100] = lines[100].replace("[", "[NaN, ", 1)
    lines[120] = ""  # blank lines hold no row
    given = tmp_path / "bad.jsonl"
    given.write_text("\n".join(lines))
    with pytest.raises(
        BadInput, match=r"bad\.jsonl, row 3: the line cannot be parsed: Column\(/v\) changed from array to string"
    ):
        job(adapt, [given], tmp_path / "stopped")
    report = job(adapt, [given], tmp_path / "out.jsonl", skip=True, rejects=tmp_path / "rejects")
    assert report.totals == (249, 246, 3, 0, 0)
    message = [json.loads(line) for line in (tmp_path / "rejects").read_text().splitlines()]
    assert [row["row"] for row in message] == [3, 66, 100]
    assert "the line cannot be parsed" in message[1]["reason"]
    y, ids = read(tmp_path / "out.jsonl")
    assert ids == [i for i in range(ROWS) if i not in (3, 66, 100, 120)]
    np.testing.assert_allclose(y, plain(adapt, x[ids]), atol=1e-5)


def test_other_columns_of_lines_stay_as_they_stand(adapt, x, tmp_path):
    rows = [{"v": v.tolist(), "when": "2020-01-01T00:00:00Z", "tags": ["a", "b"], "n": {"k": 1}} for v in x]
    rows[200]["late"] = 1.5  # a key that only later rows have
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job(adapt, [tmp_path / "in.jsonl"], tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["late"] for row in found] == [None] * 200 + [1.5] + [None] * 49
    assert all(
        {k: row[k] for k in ("when", "tags", "n")} == {k: rows[0][k] for k in ("when", "tags", "n")} for row in found
    )


def test_output_that_cannot_be_written_is_refused_at_once(adapt, x, tmp_path):
    given = write(tmp_path / "in.parquet", x)
    with pytest.raises(BadInput, match=r"\.npy files hold vectors alone.*vectors_only"):
        job(adapt, [given], tmp_path / "out.npy")
    with pytest.raises(BadInput, match="cannot be written"):
        job(adapt, [given], tmp_path / "out", format="xls")
    with pytest.raises(BadInput, match=r"\.csv files cannot be written. Write \.parquet"):
        job(adapt, [given], tmp_path / "out.csv")
    with pytest.raises(BadInput, match=r"out is inside the input folder"):
        job(adapt, [tmp_path], tmp_path / "out")
    with pytest.raises(BadInput, match=r"bad\.jsonl cannot be written: .*none is not a folder"):
        job(adapt, [given], tmp_path / "out", skip=True, rejects=tmp_path / "none" / "bad.jsonl")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"cannot be created: Not a directory"):
        job(adapt, [given], tmp_path / "file" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "in.parquet"]


def run_cli(*arguments, **how):
    command = [sys.executable, "-m", "ea_jax.cli", *map(str, arguments)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)


@pytest.mark.slow
def test_jobs_that_are_killed_resume_to_the_same_bytes(toy_root, x, tmp_path, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "EA_JAX_REGISTRY", str(toy_root))
    given = write(tmp_path / "in.parquet", np.tile(x, (80, 1)))
    names = ("--source", "toy-a", "--target", "toy-b", "--part-rows", "100")
    (tmp_path / "whole").mkdir(), (tmp_path / "killed").mkdir()
    command = ("map", given, tmp_path / "killed" / "out.parquet", *names)
    whole = run_cli("map", given, tmp_path / "whole" / "out.parquet", *names)
    assert whole.communicate()[1].startswith("ea-jax: 20,000 rows read, 20,000 written")
    moments, done = random.Random(0), tmp_path / "killed" / "out.parquet.job" / "done"
    for _ in range(3):
        process = run_cli(*command)
        parts = len(list(done.glob("*"))) + moments.randrange(60)
        while process.poll() is None and not (done.is_dir() and len(list(done.glob("*.json"))) >= parts):
            time.sleep(moments.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    last = run_cli(*command)
    out, _ = last.communicate()
    assert out.strip() == str(tmp_path / "killed" / "out.parquet")
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_csv_is_split_where_rows_end(tmp_path):
    from ea_jax.data import text_files as lines

    texts = [f'a "quoted", text\nof two lines {i}' if i % 7 == 0 else f"text {i}" for i in range(500)]
    csv.write_csv(pa.table({"text": texts, "n": [f"{i:03d}" for i in range(500)]}), tmp_path / "in.csv")
    schema, cuts = lines.describe(tmp_path / "in.csv", 64, Hints())
    found = [block for _, block in lines.blocks(tmp_path / "in.csv", schema, cuts, 10, Hints())]
    assert [text for block in found for text in block.batch.column("text").to_pylist()] == texts
    assert [n for block in found for n in block.batch.column("n").to_pylist()][:2] == ["000", "001"]
    assert np.concatenate([block.rows for block in found]).tolist() == list(range(500))
    later = [block for _, block in lines.blocks(tmp_path / "in.csv", schema, cuts[3:], 10, Hints())]
    assert later[0].batch.column("text")[0].as_py() == texts[192]


def test_empty_files_and_rejected_parts_are_parts(adapt, x, tmp_path):
    (
        write(tmp_path / "a.parquet", x),
        parquet.write_table(parquet.read_table(tmp_path / "a.parquet")[:0], tmp_path / "b.parquet"),
    )
    report = job(adapt, [tmp_path / "*.parquet"], tmp_path / "out.parquet")
    assert (report.parts, report.totals.written) == (5, ROWS)
    rows = [{"v": [0.0] * 8}] * 64 + [{"v": v.tolist()} for v in x]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = job(adapt, [tmp_path / "in.jsonl"], tmp_path / "lines", skip=True, rejects=tmp_path / "rejects")
    assert report.totals == (64 + ROWS, ROWS, 64, 0, 0)


def test_a_file_that_is_not_what_was_counted_ends_the_job(adapt, x, tmp_path):
    given = write(tmp_path / "in.jsonl", x)
    run = BatchMap(adapt, options=Options(rows=40))
    planned = plan([str(given)], tmp_path / "out", run, part_rows=64)
    given.write_text("".join(line + "\n" for line in given.read_text().splitlines()[1:]) + " " * 2000)
    with pytest.raises(BadInput, match=r"in\.jsonl"):
        run_job(planned, run)
    assert not (tmp_path / "out").exists()  # nothing is left of a job without a part


@pytest.mark.parametrize("name", ["in.jsonl.gz", "in.csv", "in.json", "in.tsv"])
def test_a_stopped_job_over_text_ends_with_the_same_bytes(adapt, x, tmp_path, monkeypatch, name):
    """A18"""
    given = write_table(tmp_path / name, {"id": list(range(ROWS)), "v": x})
    (tmp_path / "whole").mkdir(), (tmp_path / "stopped").mkdir()
    job(adapt, [given], tmp_path / "whole" / "out")
    with monkeypatch.context() as patch:
        patch.setattr(BatchMap, "_finish", stopping_at(4))
        with pytest.raises(KeyboardInterrupt):
            job(adapt, [given], tmp_path / "stopped" / "out")
    job(adapt, [given], tmp_path / "stopped" / "out")
    assert digests(tmp_path / "stopped") == digests(tmp_path / "whole")
    y = np.concatenate([read(part)[0] for part in sorted((tmp_path / "whole" / "out").glob("*.parquet"))])
    np.testing.assert_allclose(y, plain(adapt, x), atol=1e-5)
