"""A run kept on disk, so that one that was stopped goes on where it was: orbax checkpoints, and what they belong to."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ea_jax.arrays import ArrayIn
from ea_jax.errors import BadInput, differences


@contextmanager
def kept(
    folder: Path | None, arguments: Mapping[str, Any], like: Any
) -> Iterator[tuple[tuple[Any, Any] | None, Callable[[int, Any, Any], None]]]:
    """The last state that a folder keeps of a run, and a function that keeps the next one in its place.

    A state is there whole or not at all, whenever the process ends.

    Args:
        folder: Made if it is not there; nothing is kept if None.
        arguments: What the run was called with, as JSON can write it; a run of others is not gone on with.
        like: A state: a pytree whose shapes and dtypes the kept one has.

    Yields:
        State and notes, or None where there is no state yet; and `save(step, state, notes)`. JSON can write the notes.

    Raises:
        BadInput: The folder keeps a run of other arguments.
    """
    if folder is None:
        yield None, lambda step, state, notes: None
        return
    import orbax.checkpoint as ocp

    wanted = json.loads(json.dumps(arguments))
    options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True, cleanup_tmp_directories=True)
    with ocp.CheckpointManager(folder.resolve(), options=options, item_names=("state", "about")) as manager:

        def save(step: int, state: Any, notes: Any) -> None:
            about = ocp.args.JsonSave({"arguments": wanted, "notes": notes})
            manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), about=about))

        last, found = manager.latest_step(), None
        if last is not None:
            about = manager.restore(last, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
            _check_same(folder, about["arguments"], wanted)
            state = ocp.args.Composite(state=ocp.args.StandardRestore(like))
            found = manager.restore(last, args=state).state, about["notes"]
        yield found, save


def rows_told(rows: ArrayIn) -> str:
    """What an array is, in few words: dtype and shape, with a digest of its first and last rows."""
    ends = np.ascontiguousarray(np.concatenate([rows[:8], rows[-8:]]))
    return f"{rows.dtype} {rows.shape} {hashlib.sha256(ends.tobytes()).hexdigest()[:16]}"


def _check_same(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if other := differences(found, wanted):
        raise BadInput(
            f"{folder} keeps a run of other arguments ({'; '.join(other)}): give the same ones, or name another folder."
        )
