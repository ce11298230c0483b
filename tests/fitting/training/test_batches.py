from itertools import islice

import numpy as np

from ea_jax.fitting.training.batches import batches
from tests.conftest import toy_pairs


def first_batches(n, size, count, *, seed=0):
    """The first batches of rows whose values are their row number."""
    x = np.broadcast_to(np.arange(n, dtype=np.float32)[:, None], (n, 3))
    return list(islice(batches(x, x[:, :2], size, seed=seed), count))


def test_an_epoch_has_no_row_twice_and_pairs_stay_together():
    for a, b in first_batches(23, 5, 8):
        np.testing.assert_array_equal(a[:, :2], b)
    epochs = np.concatenate([a[:, 0] for a, _ in first_batches(23, 5, 8)]).reshape(2, 20)
    assert all(len(set(rows)) == 20 for rows in epochs)
    assert set(epochs[0]) != set(epochs[1])


def test_another_seed_gives_other_rows():
    assert not np.array_equal(first_batches(23, 5, 1)[0][0], first_batches(23, 5, 1, seed=1)[0][0])
    np.testing.assert_array_equal(first_batches(23, 5, 3)[2][0], first_batches(23, 5, 3)[2][0])


def test_a_batch_has_at_most_all_rows():
    assert [len(a) for a, _ in first_batches(7, 100, 3)] == [7, 7, 7]


def test_a_memory_map_gives_the_same_batches_as_an_array(tmp_path):
    x, y = toy_pairs(50)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    of_map, of_array = (islice(batches(rows, y, 8, seed=0), 9) for rows in (mapped, x))
    for (a, _), (b, _) in zip(of_map, of_array, strict=True):
        np.testing.assert_array_equal(a, b)


def test_selected_rows_give_the_same_batches_as_sliced_arrays():
    x, y = np.arange(60.0).reshape(30, 2), np.arange(30.0)[:, None]
    rows = np.sort(np.random.default_rng(1).permutation(30)[:17])
    chosen, cut = batches(x, y, 4, seed=3, rows=rows), batches(x[rows], y[rows], 4, seed=3)
    for _ in range(10):
        for ours, expected in zip(next(chosen), next(cut), strict=True):
            np.testing.assert_array_equal(ours, expected)
