"""Files are complete or absent, and a lock ends with its process."""

import subprocess
import sys
import threading
from contextlib import ExitStack

import pytest

from ea_jax.errors import Conflict
from ea_jax.io.atomic import hold_lock, hold_shared_lock, is_locked, write_atomically

HOLD = "import pathlib, sys, time; from ea_jax.io.atomic import *\nwith {}: print('held', flush=True); time.sleep(60)\n"


def start_holder(code: str) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD.format(code)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(TypeError), write_atomically(tmp_path / "a") as stream:
        stream.writelines([b"new", None])
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


@pytest.mark.parametrize("kind", ["hold_lock", "hold_shared_lock"])
def test_a_lock_is_seen_by_others_and_ends_with_a_kill(tmp_path, kind):
    hold = {"hold_lock": hold_lock, "hold_shared_lock": lambda path, name: hold_shared_lock(path, name, exclusive=True)}
    process = start_holder(f"{kind}(pathlib.Path({str(tmp_path / 'lock')!r}), 'out')")
    try:
        with pytest.raises(Conflict, match="out is already being written by another process"):
            hold[kind](tmp_path / "lock", "out").__enter__()
    finally:
        end(process)
    with hold[kind](tmp_path / "lock", "out"):
        pass


def test_a_lock_can_be_waited_for(tmp_path):
    process = start_holder(f"hold_lock(pathlib.Path({str(tmp_path / 'lock')!r}), 'out')")
    timer = threading.Timer(0.2, process.kill)
    timer.start()
    with hold_lock(tmp_path / "lock", "out", wait=True):
        assert process.wait() != 0
    timer.join()
    end(process)


def test_a_shared_lock_excludes_only_exclusive_holders(tmp_path):
    lock = tmp_path / "lock"
    assert not is_locked(lock)
    with ExitStack() as stack:
        stack.enter_context(hold_shared_lock(lock, "out"))
        stack.enter_context(hold_shared_lock(lock, "out"))
        assert is_locked(lock)
        with pytest.raises(Conflict):
            stack.enter_context(hold_shared_lock(lock, "out", exclusive=True))
    with hold_shared_lock(lock, "out", exclusive=True), pytest.raises(Conflict):
        hold_shared_lock(lock, "out").__enter__()
    assert not is_locked(lock)
