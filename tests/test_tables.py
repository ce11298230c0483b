import gzip
import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ea_jax.errors import BadInput
from ea_jax.tables import Pairs, read_pairs, write_pairs

PAIRS = Pairs(
    y=np.asarray([[1, 2], [3, 4], [5, 6]], np.float32),
    x=np.asarray([[1], [2], [3]], np.float32),
    text=["a", "ü", ""],
    group=["g", "g", "h"],
    query=np.asarray([True, False, True]),
)


def test_written_pairs_are_read_back_and_files_are_joined_in_order(tmp_path):
    write_pairs(tmp_path / "a.parquet", PAIRS)
    found = read_pairs([tmp_path / "a.parquet"] * 2)
    assert found.text == PAIRS.text * 2
    assert found.group == PAIRS.group * 2
    for name in ("x", "y", "query"):
        np.testing.assert_array_equal(getattr(found, name), np.concatenate([getattr(PAIRS, name)] * 2))


@pytest.mark.parametrize(("name", "opener"), [("a.jsonl", open), ("a.ndjson.gz", gzip.open)])
def test_json_lines_are_read_plain_and_gzipped(tmp_path, name, opener):
    with opener(tmp_path / name, "wt") as file:
        file.writelines(json.dumps({"text": t, "y": y}) + "\n" for t, y in [("a", [1, 2.5]), ("b", [3, 4])])
    found = read_pairs([tmp_path / name])
    assert found.text == ["a", "b"]
    assert found.x is None
    np.testing.assert_array_equal(found.y, [[1, 2.5], [3, 4]])


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float16()), pa.list_(pa.int8(), 2)])
def test_any_list_of_numbers_is_a_vector(tmp_path, kind):
    values = [[np.float16(1), np.float16(2)]] if kind.value_type == pa.float16() else [[1, 2]]
    parquet.write_table(pa.table({"text": ["a"], "y": pa.array(values, kind)}), tmp_path / "a.parquet")
    np.testing.assert_array_equal(read_pairs([tmp_path / "a.parquet"]).y, [[1, 2]])


BAD = {
    "a ragged vector": ([{"text": "a", "y": [1, 2]}, {"text": "b", "y": [1]}], r"column y, row 1: .* width 1.* 2"),
    "a zero vector": ([{"text": "a", "y": [1, 2]}, {"text": "b", "y": [0, 0]}], "column y, row 1: the vector is zero"),
    "a null in a vector": ([{"text": "a", "y": [1, None]}], "row 0: the vector is zero or has a value that is not"),
    "a null text": ([{"text": "a", "y": [1]}, {"y": [1]}], "column text, row 1: the value is null"),
    "a text that is a number": ([{"text": 1, "y": [1]}], "column text holds int64; it must hold strings"),
    "a vector that is a text": ([{"text": "a", "y": "1"}], "column y holds string; it must hold lists"),
    "a query that is a number": ([{"text": "a", "y": [1], "query": 1}], "column query holds int64; .* booleans"),
    "no target": ([{"text": "a"}], "needs the columns y and"),
    "no source": ([{"y": [1]}], "needs the columns y and"),
    "nothing": ([], "cannot be read"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_row_is_named_by_file_column_and_row(tmp_path, fault):
    rows, told = BAD[fault]
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(BadInput, match=rf"bad\.jsonl.*{told}"):
        read_pairs([tmp_path / "bad.jsonl"])


def test_missing_unknown_and_unlike_files_are_refused(tmp_path):
    write_pairs(tmp_path / "a.parquet", PAIRS)
    write_pairs(tmp_path / "b.parquet", Pairs(y=PAIRS.y, x=PAIRS.x))
    write_pairs(tmp_path / "c.parquet", Pairs(y=PAIRS.x, x=PAIRS.x))
    (tmp_path / "d.parquet").write_bytes(b"PAR1 but not really")
    for names, told in {
        ("none.parquet",): "is not a file",
        ("a.csv",): "is not a file",
        ("d.parquet",): "cannot be read",
        ("a.parquet", "b.parquet"): "has the columns x, y, but .*a.parquet has text, x, y, group, query",
        ("b.parquet", "c.parquet"): r"widths \[1, 2\]",
    }.items():
        with pytest.raises(BadInput, match=told):
            read_pairs([tmp_path / name for name in names])
    (tmp_path / "a.csv").touch()
    with pytest.raises(BadInput, match="unknown kind"):
        read_pairs([tmp_path / "a.csv"])
