import signal
import subprocess
import sys
import time

import pytest
from pyarrow import parquet

from ea_jax.data.partial_pairs import parts_folder
from tests.support.openai_server import status
from tests.workflows.conftest import SPACES, TEXTS, check_rows, half_done

# The command line, heeding SIGINT where the tests' own parent ignores it, as shells' background jobs do.
HEEDING = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('ea_jax.cli', run_name='__main__')"
)


def kill_after(parts: int, command: list[str], folder) -> None:
    """Start a run, and kill it once some of its requests are done."""
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.npy"))) < parts and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    out, err = run.communicate()
    assert run.returncode == -signal.SIGKILL, err
    assert out == b""


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_rows(pairs, provider, lines, tmp_path):
    assert pairs()[0] == 0
    whole = (tmp_path / "pairs.parquet").rename(tmp_path / "whole.parquet")
    out = tmp_path / "pairs.parquet"
    folder = parts_folder(out)
    command = [sys.executable, "-m", "ea_jax.cli", "pairs", str(lines), "--target", "toy", "--out", str(out)]
    provider.delay = 0.2
    for parts in (3, 6):  # killed twice, with different request sizes
        kill_after(parts, [*command, "--batch-size", "4" if parts == 3 else "3", "--workers", "2"], folder)
        assert not out.exists()
    spans = [[int(number) for number in path.stem.split("-")] for path in folder.glob("*.npy")]
    done = {TEXTS[row] for start, end in spans for row in range(start, end)}
    assert 0 < len(done) < len(TEXTS)
    time.sleep(0.5)  # the server finishes its answers to the killed run
    provider.delay, provider.requests = 0.0, []
    code, printed, err = pairs(size="5")
    assert (code, printed) == (0, f"{out}\n")
    assert f"{len(done)} of them done before" in err
    assert sorted(provider.texts) == sorted(set(TEXTS) - done)
    assert parquet.read_table(out).equals(parquet.read_table(whole), check_metadata=True)
    assert not folder.exists()


@pytest.mark.slow
def test_an_interrupted_run_keeps_running_requests(pairs, provider, lines, tmp_path):
    out = tmp_path / "pairs.parquet"
    command = [sys.executable, "-c", HEEDING, "pairs", str(lines), "--target", "toy", "--out", str(out)]
    provider.release.clear()
    run = subprocess.Popen([*command, "--batch-size", "4", "--workers", "2"], stderr=subprocess.PIPE, text=True)
    while len(provider.requests) < 2 and run.poll() is None:
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    kept = "stopping after the running requests, whose vectors are kept"
    err = ""
    while kept not in err and (line := run.stderr.readline()):
        err += line
    provider.release.set()
    err += run.communicate()[1]
    assert kept in err
    assert run.returncode not in (0, None)
    assert "Traceback" not in err
    assert len(list(parts_folder(out).glob("*.npy"))) == len(provider.requests) == 2
    assert not out.exists()


def test_a_rerun_requests_only_the_rest(pairs, provider, tmp_path):
    half_done(pairs, provider)
    code, out, err = pairs("--dry-run")
    assert (code, out) == (0, "")
    assert "40 texts, 8 of them done before; to request: about 54 tokens" in err
    assert pairs()[0] == 0
    assert len(provider.texts) == len(set(provider.texts)) == 32
    check_rows(tmp_path / "pairs.parquet")


def test_a_finished_job_is_written_without_new_requests(pairs, provider, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("ea_jax.data.partial_pairs._write_pairs", full)
        assert "No space left on device" in pairs()[2]
    assert not (tmp_path / "pairs.parquet").exists()
    provider.requests = []
    monkeypatch.delenv("OPENAI_API_KEY")
    assert pairs()[0] == 0
    assert provider.requests == []
    check_rows(tmp_path / "pairs.parquet")


def test_a_different_job_does_not_continue_partial_results(pairs, provider, lines, tmp_path):
    half_done(pairs, provider)
    kept = sorted(path.name for path in parts_folder(tmp_path / "pairs.parquet").iterdir())
    message = [pairs("--model", "other")[2], pairs("--model", "m", target="raw")[2]]
    lines.write_text("\n".join(["text 0", "text one", *TEXTS[2:]]))
    message.append(pairs()[2])
    lines.write_text("\n".join([*TEXTS, "one more"]))
    message.append(pairs("--force", "--yes")[2])
    (tmp_path / "spaces" / "spaces.toml").write_text(SPACES.replace("width = 12", "width = 6"))
    lines.write_text("\n".join(TEXTS))
    message.append(pairs()[2])
    expected = [
        ("the model is now other, it was toy-embedding.",),
        ("the target is now toy/raw, it was openai/toy-embedding", "the model is now m"),
        ("text 1 is now 'text one', it was 'text 1'.",),
        ("there are now 41 texts, there were 40.",),
        ("the dimensions is now 6, it was 12.",),
    ]
    for parts, error in zip(expected, message, strict=True):
        assert "holds partial results of another job" in error
        assert "remove the folder to start over, or choose another output" in error
        assert all(part in error for part in parts), error
    assert provider.requests == []
    assert sorted(path.name for path in parts_folder(tmp_path / "pairs.parquet").iterdir()) == kept


@pytest.mark.parametrize(
    ("name", "message"), [("000000000-000000004.npy", "is damaged. Delete it"), ("job.parquet", "is damaged. Remove")]
)
def test_a_damaged_part_is_named(pairs, provider, tmp_path, name, message):
    half_done(pairs, provider)
    part = parts_folder(tmp_path / "pairs.parquet") / name
    if name.endswith(".npy"):
        part.with_name("000000000-000000004.npy").write_bytes(b"\x93NUMPY\x01")
    else:
        part.write_bytes(part.read_bytes()[:50])
    code, _, err = pairs()
    assert code == 1
    assert f"{part} {message}" in err
    if name.endswith(".npy"):
        part.unlink()
        assert pairs()[0] == 0
        check_rows(tmp_path / "pairs.parquet")


def test_a_foreign_folder_is_left_alone(pairs, provider, tmp_path):
    folder = parts_folder(tmp_path / "pairs.parquet")
    folder.mkdir()
    (folder / "000000000-000000004.npy").touch()
    assert "exists but has no job.parquet" in pairs()[2]
    assert not provider.requests


def test_an_existing_file_is_replaced_only_on_request(pairs, provider, tmp_path, lines):
    assert pairs()[0] == 0
    before = (tmp_path / "pairs.parquet").read_bytes()
    provider.requests = []
    lines.write_text("another\n")
    code, out, err = pairs()
    assert (code, out) == (1, "")
    assert "pairs.parquet already exists. Choose another file, or force its replacement." in err
    assert (provider.requests, (tmp_path / "pairs.parquet").read_bytes()) == ([], before)
    provider.faults = [status(401)]
    assert pairs("--force")[0] == 1
    assert (tmp_path / "pairs.parquet").read_bytes() == before
    assert pairs("--force")[0] == 0
    check_rows(tmp_path / "pairs.parquet", ["another"])
