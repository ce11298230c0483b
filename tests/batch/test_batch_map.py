"""The core of a batch job: record batches in and out, against float64 NumPy."""

import numpy as np
import pyarrow as pa
import pytest

from ea_jax.batch import BatchMap, Options, map_array, map_batches
from ea_jax.batch.row_digests import block_digest
from ea_jax.data import provenance
from ea_jax.data.blocks import Block
from ea_jax.errors import BadInput
from ea_jax.loading import load_quality
from tests.conftest import unit_rows


@pytest.fixture
def x():
    return unit_rows(np.random.default_rng(1), 300, 8)


def plain(adapt, x):
    """The affine map in float64."""
    out = {k: np.asarray(v, np.float64) for k, v in adapt.params["out"].items()}
    y = np.asarray(x, np.float64) @ out["kernel"] + out["bias"]
    return y / np.linalg.norm(y, axis=1, keepdims=True)


def table(x, **others):
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    return pa.RecordBatch.from_pydict({"id": pa.array(range(len(x))), "v": lists, **others})


def vectors(batch, name="v"):
    column = batch.column(name)
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)


def test_arrays_map_as_the_equation_says(adapt, x):
    np.testing.assert_allclose(map_array(adapt, x), plain(adapt, x), atol=1e-5)  # float32 sums of 8 products
    parts = list(map_batches(adapt, [x[:1], x[1:7], x[7:]]))
    assert [len(part) for part in parts] == [1, 6, 293]
    np.testing.assert_array_equal(np.concatenate(parts), map_array(adapt, x))


def test_a_batch_keeps_other_columns_and_records_its_adapter(adapt, x):
    given = table(x, note=pa.array([None if i % 3 else "nö" for i in range(300)]))
    found = BatchMap(adapt)(given)
    assert found.schema.names == ["id", "v", "note"]
    assert found.column("id").equals(given.column("id"))
    assert found.column("note").equals(given.column("note"))
    np.testing.assert_allclose(vectors(found), plain(adapt, x), atol=1e-5)
    assert provenance.read(found.schema)["target"] == "toy/target"


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
@pytest.mark.parametrize("fixed", [True, False])
def test_every_kind_of_list_is_read(adapt, x, kind, fixed):
    lists = pa.array(x.tolist()).cast(pa.list_(kind, 8) if fixed else pa.list_(kind))
    found = BatchMap(adapt)(pa.RecordBatch.from_pydict({"v": lists}))
    exact = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, 8)
    np.testing.assert_allclose(vectors(found), plain(adapt, exact), atol=1e-5)


def test_smaller_dtypes_are_close(adapt, x):
    y = plain(adapt, x)
    half = BatchMap(adapt, options=Options(dtype="float16"))(table(x))
    np.testing.assert_allclose(vectors(half), y, atol=5e-4)  # 11 bits of numbers below one
    small = BatchMap(adapt, options=Options(dtype="int8"))(table(x))
    scale = small.column("v_scale").to_numpy()
    np.testing.assert_allclose(scale, np.abs(y).max(1) / 127, rtol=1e-5)
    np.testing.assert_allclose(vectors(small) * scale[:, None], y, atol=scale.max() / 2 + 1e-6)


def test_fewer_numbers_have_length_one_again(adapt, x):
    y = plain(adapt, x)[:, :5]
    found = BatchMap(adapt, options=Options(dim=5))(table(x))
    np.testing.assert_allclose(vectors(found), y / np.linalg.norm(y, axis=1, keepdims=True), atol=1e-5)
    with pytest.raises(BadInput, match="dim is 13"):
        BatchMap(adapt, options=Options(dim=13))


def test_the_confidence_is_the_quality_parts(adapt, toy_root, x):
    quality = load_quality("toy-a", "toy-b", root=toy_root)
    found = BatchMap(adapt, quality)(table(x))
    np.testing.assert_allclose(found.column("confidence").to_numpy(), quality(quality.params, x).confidence, atol=1e-5)


BAD = {
    "null": (None, "the value is null"),
    "short": ([1.0] * 7, "the vector has width 7, but toy/source has width 8"),
    "nan": ([float("nan")] * 8, "not finite"),
    "infinite": ([float("inf")] * 8, "not finite"),
    "null number": ([None] + [1.0] * 7, "null"),
    "too large": ([1e300] * 8, "too large"),
    "zero": ([0.0] * 8, "the vector is zero"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_row_stops_or_is_skipped_with_its_reason(adapt, x, bad):
    rows = x.tolist()
    rows[5], why = BAD[bad]
    given = pa.RecordBatch.from_pydict({"v": pa.array(rows, pa.list_(pa.float64())), "id": pa.array(range(300))})
    with pytest.raises(BadInput, match=f"^row 5, column v: .*{why}"):
        BatchMap(adapt)(given)
    done = BatchMap(adapt, options=Options(skip=True)).start(given)()
    assert list(done.rejected) == [5]
    assert why in done.rejected[5]
    assert done.batch.column("id").to_pylist() == [*range(5), *range(6, 300)]
    np.testing.assert_allclose(vectors(done.batch), plain(adapt, np.delete(x, 5, 0)), atol=1e-5)


@pytest.mark.parametrize("fixed", [True, False])
def test_null_rows_stay_or_go_as_asked(adapt, x, fixed):
    lists = pa.array([None, *x[1:].tolist()], pa.list_(pa.float32(), 8) if fixed else pa.list_(pa.float32()))
    given = pa.RecordBatch.from_pydict({"v": lists})
    kept = BatchMap(adapt, options=Options(where_null="keep"))(given)
    assert kept.column("v").is_null().to_pylist() == [True] + [False] * 299
    np.testing.assert_allclose(vectors(kept), plain(adapt, x[1:]), atol=1e-5)
    done = BatchMap(adapt, options=Options(where_null="drop")).start(given)()
    assert (len(done.batch), done.dropped, done.rejected) == (299, 1, {})


def test_a_missing_column_is_named_with_the_present_ones(adapt, x):
    with pytest.raises(BadInput, match="not exactly one column 'w'; the columns are id, v"):
        BatchMap(adapt, options=Options(column="w"))(table(x))
    with pytest.raises(BadInput, match=r"Several columns hold vectors \(lists of numbers\): v, w"):
        BatchMap(adapt)(table(x, w=pa.array(x.tolist())))
    with pytest.raises(BadInput, match="already has a column 'id'"):
        BatchMap(adapt, options=Options(column="v", out_column="id"))(table(x))


KINDS = {
    "floats": pa.array([0.5, None, 1.5, -2.0], pa.float32()),
    "halves": pa.array([0.5, 1.0, 1.5, -2.0], pa.float16()),
    "words": pa.array(["a", None, "", "bcd"]),
    "large words": pa.array(["a", "ä", "", "bcd"], pa.large_string()),
    "lists": pa.array([[1, 2], None, [], [None]], pa.list_(pa.int32())),
    "vectors": pa.array([[1.0, 2.0], None, [3.0, None], [5.0, 6.0]], pa.list_(pa.float64(), 2)),
    "tables": pa.array([{"k": 1, "w": "x"}, None, {"k": None, "w": "y"}, {"k": 2, "w": None}]),
    "truths": pa.array([True, None, False, False]),
    "dates": pa.array([0, None, 1, 2], pa.timestamp("us")),
    "codes": pa.array(["a", None, "a", "b"]).dictionary_encode(),
    "maps": pa.array([[("k", 1)], None, [], [("k", 2)]], pa.map_(pa.string(), pa.int32())),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_digest_depends_on_values_and_not_on_layout(kind):
    def digest(column):
        return block_digest(Block(pa.record_batch([column], ["c"]), np.arange(len(column)), {}))

    column = KINDS[kind]
    held = pa.concat_arrays([column[3:], column, column[2:]]).slice(1, 4)  # between others
    assert held.equals(column)
    assert digest(held) == digest(column)
    others = [column.take(pa.array(order)) for order in ([0, 1, 2], [3, 1, 2, 0], [0, 2, 1, 3])]
    assert len({digest(column), *map(digest, others)}) == 4


def test_a_digest_ignores_bytes_under_nulls():
    valid = pa.py_buffer(bytes([0b101]))
    held = [pa.Array.from_buffers(pa.int32(), 3, [valid, pa.py_buffer(np.int32([1, n, 3]))]) for n in (2, 9)]
    a, b = (block_digest(Block(pa.record_batch([array], ["c"]), np.arange(3), {})) for array in held)
    assert a == b


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_named(adapt, x, number):
    """F20: `map_array` and `map_batches` refuse; a plain call passes the row through, and changes no other."""
    bad = x.copy()
    bad[200, 3] = number
    with pytest.raises(BadInput, match="x, row 200: a number of the vector is null, not finite"):
        map_array(adapt, bad)
    with pytest.raises(BadInput, match="x, row 200"):
        list(map_batches(adapt, [bad[:150], bad[150:]]))
    y = np.asarray(adapt(adapt.params, bad))
    assert not np.isfinite(y[200]).all()
    np.testing.assert_array_equal(np.delete(y, 200, 0), np.delete(np.asarray(adapt(adapt.params, x)), 200, 0))


def test_arrays_of_another_length_are_refused_or_normalized(adapt, x, toy_root, monkeypatch):
    """A1"""
    monkeypatch.setenv("EA_JAX_REGISTRY", str(toy_root))
    with pytest.raises(BadInput, match=r"x, row 0: the vector has length 5\.000, but vectors of toy/source"):
        map_array(adapt, 5 * x)
    np.testing.assert_allclose(map_array(adapt, 5 * x, normalize=True), plain(adapt, x), atol=1e-5)
    np.testing.assert_allclose(map_array(adapt, 1.015 * x), plain(adapt, x), atol=1e-5)
