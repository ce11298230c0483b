import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ea_jax.errors import BadInput
from ea_jax.resume import kept, rows_told
from tests.conftest import toy_pairs

STATE = {"a": jnp.arange(6.0).reshape(2, 3), "b": np.asarray([0.5], ml_dtypes.bfloat16)}
ARGUMENTS = {"steps": 3, "terms": {"cosine": 1.0}, "only": ()}


def test_the_last_state_comes_back_bit_for_bit(tmp_path):
    with kept(tmp_path / "run", ARGUMENTS, STATE) as (found, save):
        assert found is None
        save(1, STATE, {"judged": [[0, 0.1]]})
        save(2, {"a": STATE["a"] + 1, "b": STATE["b"]}, {"judged": [[0, 0.1], [2, 1 / 3]]})
    with kept(tmp_path / "run", ARGUMENTS, STATE) as (found, _):
        state, notes = found
    np.testing.assert_array_equal(state["a"], STATE["a"] + 1)
    assert state["b"].dtype == STATE["b"].dtype
    assert notes == {"judged": [[0, 0.1], [2, 1 / 3]]}


def test_a_run_of_other_arguments_is_refused_with_what_differs(tmp_path):
    with kept(tmp_path, ARGUMENTS, STATE) as (_, save):
        save(1, STATE, {})
    with (
        pytest.raises(BadInput, match=r"\(steps was 3 and is 4\): give the same ones, or name another folder\.$"),
        kept(tmp_path, {**ARGUMENTS, "steps": 4}, STATE),
    ):
        pass


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with kept(None, ARGUMENTS, STATE) as (found, save):
        save(1, STATE, {})
    assert found is None
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_was_cut_short_is_not_gone_on_with(tmp_path):
    with kept(tmp_path, ARGUMENTS, STATE) as (_, save):
        save(1, STATE, {"is": "whole"})
    (tmp_path / "2.orbax-checkpoint-tmp-7" / "state").mkdir(parents=True)
    with kept(tmp_path, ARGUMENTS, STATE) as (found, _):
        assert found[1] == {"is": "whole"}


def test_an_array_is_told_by_shape_dtype_and_its_ends():
    x, _ = toy_pairs(40)
    told = rows_told(x)
    assert told.startswith("float32 (40, 8) ")
    assert rows_told(x[:39]) != told
    for row in (0, -1):
        other = x.copy()
        other[row] += 1
        assert rows_told(other) != told
