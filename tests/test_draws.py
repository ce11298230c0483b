from itertools import islice

import numpy as np

from ea_jax.draws import batches, mixed
from tests.conftest import toy_pairs, unit_rows


def drawn(n, size, count, *, mixup=0.0, seed=0, step=0):
    """The batches of rows that carry their own number in every column."""
    x = np.broadcast_to(np.arange(n, dtype=np.float32)[:, None], (n, 3))
    made = islice(batches(x, x[:, :2], size, mixup=mixup, seed=seed, step=step), count)
    return [(np.asarray(a), np.asarray(b)) for a, b in made]


def test_an_epoch_has_no_row_twice_and_pairs_stay_together():
    for a, b in drawn(23, 5, 8):
        np.testing.assert_array_equal(a[:, :2], b)
    epochs = np.concatenate([a[:, 0] for a, _ in drawn(23, 5, 8)]).reshape(2, 20)
    assert all(len(set(rows)) == 20 for rows in epochs)
    assert set(epochs[0]) != set(epochs[1])


def test_batches_from_a_step_on_are_those_of_the_whole():
    whole = drawn(23, 5, 12)
    for step in range(12):
        np.testing.assert_array_equal(drawn(23, 5, 1, step=step)[0][0], whole[step][0])
    x, y = toy_pairs(23)
    all_mixed = list(islice(batches(x, y, 5, mixup=0.4, seed=3, step=0), 7))
    last = next(batches(x, y, 5, mixup=0.4, seed=3, step=6))
    np.testing.assert_array_equal(last[0], all_mixed[6][0])
    np.testing.assert_array_equal(last[1], all_mixed[6][1])


def test_another_seed_draws_other_rows():
    assert not np.array_equal(drawn(23, 5, 1)[0][0], drawn(23, 5, 1, seed=1)[0][0])


def test_a_batch_has_no_more_rows_than_there_are():
    assert [len(a) for a, _ in drawn(7, 100, 3)] == [7, 7, 7]


def test_a_memory_map_is_drawn_from_as_an_array_is(tmp_path):
    x, y = toy_pairs(50)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    of_map, of_array = (islice(batches(rows, y, 8, mixup=0.0, seed=0, step=0), 9) for rows in (mapped, x))
    for (a, _), (b, _) in zip(of_map, of_array, strict=True):
        np.testing.assert_array_equal(a, b)


def test_mixed_rows_are_numpys_and_of_length_one():
    rng = np.random.default_rng(0)
    x, y = unit_rows(rng, 9, 4), unit_rows(rng, 9, 6)
    share, partner = rng.beta(0.4, 0.4, 9).astype(np.float32), rng.permutation(9)
    for a, found in zip((x, y), mixed(x, y, share, partner), strict=True):
        wanted = share[:, None].astype(np.float64) * a + (1 - share[:, None].astype(np.float64)) * a[partner]
        np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)


def test_mixed_source_rows_have_the_length_between_those_that_came_in():
    rng = np.random.default_rng(0)
    x, y, length = unit_rows(rng, 9, 4), unit_rows(rng, 9, 6), rng.uniform(0.5, 5, 9).astype(np.float32)
    share, partner = rng.beta(0.4, 0.4, 9).astype(np.float32), rng.permutation(9)
    found, _ = mixed(length[:, None] * x, y, share, partner)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), share * length + (1 - share) * length[partner], rtol=1e-6)
