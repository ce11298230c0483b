import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ea_jax.data.vectors import read_vectors
from ea_jax.errors import BadInput

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3) + 1


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_an_array_file_is_read_in_float32(tmp_path, kind):
    np.save(tmp_path / "x.npy", ROWS.astype(kind))
    found = read_vectors(tmp_path / "x.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, ROWS)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float64(), 3), pa.large_list(pa.float32())])
def test_a_column_of_lists_is_read_over_row_groups(tmp_path, kind):
    table = pa.table({"v": pa.array(ROWS.tolist(), kind), "n": [1, 2, 3, 4]})
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=3)
    np.testing.assert_array_equal(read_vectors(tmp_path / "x.parquet", "v"), ROWS)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0], None], "row 1: the value is null"),
        ([[1.0], [1.0, 2.0]], "row 1: the vector has width 2, but the first has width 1"),
        ([1.0, 2.0], "Column x holds double, not vectors"),
        ([["a"]], "Column x holds list<.*string>, not vectors"),
    ],
)
def test_a_bad_column_is_named_with_its_row(tmp_path, rows, message):
    parquet.write_table(pa.table({"x": rows}), tmp_path / "x.parquet")
    with pytest.raises(BadInput, match=message):
        read_vectors(tmp_path / "x.parquet")


def test_missing_unknown_and_broken_files_are_named(tmp_path):
    (tmp_path / "broken.npy").write_bytes(b"no array")
    (tmp_path / "broken.parquet").write_bytes(b"no table")
    np.save(tmp_path / "objects.npy", np.array([[{}]], object), allow_pickle=True)
    parquet.write_table(pa.table({"y": [1]}), tmp_path / "other.parquet")
    for name, message in {
        "gone.npy": "is not a file",
        "x.csv": "is not a file",
        "broken.npy": "cannot be read",
        "broken.parquet": "cannot be read",
        "objects.npy": "cannot be read",
        "other.parquet": r"No column holds vectors .*; the columns are y \(int64\)",
    }.items():
        with pytest.raises(BadInput, match=message):
            read_vectors(tmp_path / name)
