import gzip
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ea_jax.data import pairs as tables
from ea_jax.data import text_files
from ea_jax.data.pairs import Pairs, read_pairs, write_pairs
from ea_jax.errors import BadInput

PAIRS = Pairs(
    y=np.asarray([[1, 2], [3, 4], [5, 6]], np.float32),
    x=np.asarray([[1], [2], [3]], np.float32),
    text=["a", "ü", ""],
    group=["g", "g", "h"],
    domain=["d", "e", "e"],
    query=np.asarray([True, False, True]),
)


def test_written_pairs_are_read_back_and_files_are_joined_in_order(tmp_path):
    write_pairs(tmp_path / "a.parquet", PAIRS)
    found = read_pairs([tmp_path / "a.parquet"] * 2)
    assert found.text == PAIRS.text * 2
    assert found.group == PAIRS.group * 2
    assert found.domain == PAIRS.domain * 2
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
    "a null in a vector": ([{"text": "a", "y": [1, None]}], "row 0: a number of the vector is null, not finite"),
    "a null text": ([{"text": "a", "y": [1]}, {"y": [1]}], "column text, row 1: the value is null"),
    "a text that is a number": ([{"text": 1, "y": [1]}], "Column text holds int64, not strings"),
    "a vector that is a text": ([{"text": "a", "y": "1"}], "column y, row 0: the text is neither a list of numbers"),
    "a query that is a number": ([{"text": "a", "y": [1], "query": 1}], "column query holds int64; .* booleans"),
    "no target": ([{"text": "a"}], "needs the columns y and"),
    "no source": ([{"y": [1]}], "needs the columns y and"),
    "nothing": ([], "cannot be read"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_row_is_named_by_file_column_and_row(tmp_path, fault):
    rows, message = BAD[fault]
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(BadInput, match=rf"bad\.jsonl.*{message}"):
        read_pairs([tmp_path / "bad.jsonl"])


def test_missing_unknown_and_unlike_files_are_refused(tmp_path):
    write_pairs(tmp_path / "a.parquet", PAIRS)
    write_pairs(tmp_path / "b.parquet", Pairs(y=PAIRS.y, x=PAIRS.x))
    write_pairs(tmp_path / "c.parquet", Pairs(y=PAIRS.x, x=PAIRS.x))
    (tmp_path / "d.parquet").write_bytes(b"PAR1 but not really")
    for names, message in {
        ("none.parquet",): "is not a file",
        ("a.xls",): "is not a file",
        ("d.parquet",): "cannot be read",
        ("a.parquet", "b.parquet"): "has the columns x, y, but .*a.parquet has text, x, y, group, domain, query",
        ("b.parquet", "c.parquet"): "column y, row 0: the vector has width 1, but the first has width 2",
    }.items():
        with pytest.raises(BadInput, match=message):
            read_pairs([tmp_path / name for name in names])
    (tmp_path / "a.xls").touch()
    with pytest.raises(BadInput, match="unknown format"):
        read_pairs([tmp_path / "a.xls"])


def many_pairs(n: int = 2500) -> Pairs:
    """More rows than a batch has."""
    rng = np.random.default_rng(0)
    return Pairs(
        y=rng.normal(size=(n, 5)).astype(np.float32),
        x=rng.normal(size=(n, 3)).astype(np.float32),
        text=[f"text {i}" for i in range(n)],
        group=[f"g{i // 7}" for i in range(n)],
        domain=[f"d{i % 7}" for i in range(n)],
        query=np.arange(n) % 3 == 0,
    )


def write_lines(path, pairs: Pairs, **changed) -> None:
    """NDJSON of pairs, where `changed` replaces rows of columns: `y={5: [1]}`; None leaves the key out."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt") as file:
        for i in range(len(pairs.y)):
            row = {name: np.asarray(getattr(pairs, name)[i]).tolist() for name in tables.COLUMNS}
            row |= {name: rows[i] for name, rows in changed.items() if i in rows}
            file.write(json.dumps({name: value for name, value in row.items() if value is not None}) + "\n")


def write_many(folder, kind: str, pairs: Pairs):
    path = folder / f"many.{kind}"
    if kind != "parquet":
        write_lines(path, pairs)
        return path
    write_pairs(folder / "whole.parquet", pairs)
    parquet.write_table(parquet.read_table(folder / "whole.parquet"), path, row_group_size=700)
    return path


def assert_same(found: Pairs, wanted: Pairs) -> None:
    for name in tables.COLUMNS:
        a, b = getattr(found, name), getattr(wanted, name)
        assert type(b) is list or a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "jsonl.gz"])
def test_what_is_streamed_to_disk_is_what_is_read_into_memory(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(text_files, "READ", 10_000)
    pairs = many_pairs()
    path = write_many(tmp_path, kind, pairs)
    (tmp_path / "scratch").mkdir()
    found = read_pairs([path], tmp_path / "scratch")
    assert isinstance(found.x, np.memmap)
    assert isinstance(found.y, np.memmap)
    assert len(list((tmp_path / "scratch").iterdir())) == 2
    assert_same(found, pairs)
    assert_same(read_pairs([path]), pairs)
    again = read_pairs([path, path], tmp_path / "scratch")
    np.testing.assert_array_equal(again.y, np.concatenate([pairs.y, pairs.y]))
    assert_same(found, pairs)


LATE = {
    "a ragged vector": ({"y": {2222: [1.0]}}, "column y, row 2222: the vector has width 1, but the first has width 5"),
    "a zero vector": ({"x": {2222: [0.0] * 3}}, "column x, row 2222: the vector is zero"),
    "a null text": ({"text": {2222: None}}, "column text, row 2222: the value is null"),
    "a key that ends": ({"group": dict.fromkeys(range(1111, 2500))}, "column group, row 1111: the value is null"),
    "a key that comes late": ({"group": dict.fromkeys(range(1111))}, "column group, row 0: the value is null"),
    "a text that is a number": ({"text": {2222: 1}}, r"row 2222: the line cannot be parsed: Column\(/text\) changed"),
    "a number that is a text": (
        {"y": {2222: ["a"]}},
        r"row 2222: the line cannot be parsed: Column\(/y/\[\]\)",
    ),
}


@pytest.mark.parametrize("fault", LATE)
def test_a_bad_row_has_its_number_in_the_file_whatever_block_it_is_in(tmp_path, monkeypatch, fault):
    monkeypatch.setattr(text_files, "READ", 10_000)
    changed, message = LATE[fault]
    write_lines(tmp_path / "bad.jsonl", many_pairs(), **changed)
    with pytest.raises(BadInput, match=rf"bad\.jsonl.*{message}"):
        read_pairs([tmp_path / "bad.jsonl"], tmp_path)


@pytest.mark.parametrize("column", ["x", "y"])
def test_a_bad_row_of_a_later_row_group_has_its_number_in_the_file(tmp_path, column):
    pairs = many_pairs()
    getattr(pairs, column)[2222] = np.nan
    with pytest.raises(BadInput, match=rf"many\.parquet, column {column}, row 2222: .* not finite"):
        read_pairs([write_many(tmp_path, "parquet", pairs)], tmp_path)


def test_a_parquet_file_without_rows_is_refused(tmp_path):
    write_pairs(tmp_path / "none.parquet", many_pairs(0))
    with pytest.raises(BadInput, match=r"none\.parquet cannot be read: it has no rows"):
        read_pairs([tmp_path / "none.parquet"])


def write_folder(folder, pairs: Pairs, dtype=np.float32):
    folder.mkdir()
    for name in ("x", "y"):
        np.save(folder / f"{name}.npy", getattr(pairs, name).astype(dtype))
    np.save(folder / "group.npy", np.asarray(pairs.group))
    np.save(folder / "domain.npy", np.asarray(pairs.domain))
    np.save(folder / "query.npy", pairs.query)
    (folder / "text.txt").write_text("".join(f"{text}\n" for text in pairs.text), encoding="utf-8")
    return folder


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_folder_of_arrays_is_read_whatever_its_floats(tmp_path, dtype, streamed):
    pairs = many_pairs()
    folder = write_folder(tmp_path / "pairs", pairs, dtype)
    found = read_pairs([folder], tmp_path if streamed else None)
    assert isinstance(found.y, np.memmap) == (streamed or dtype is np.float32)
    rounded = {name: getattr(pairs, name).astype(dtype).astype(np.float32) for name in ("x", "y")}
    assert_same(found, Pairs(**rounded, text=pairs.text, group=pairs.group, domain=pairs.domain, query=pairs.query))


def test_a_folder_may_hold_text_for_x_integer_groups_and_columns_in_fortran_order(tmp_path):
    pairs = many_pairs(4)
    np.save(tmp_path / "y.npy", np.asfortranarray(pairs.y))
    np.save(tmp_path / "group.npy", np.arange(4) // 2)
    (tmp_path / "text.txt").write_bytes("a\r\n\nü\u2028\nb".encode())
    found = read_pairs([tmp_path])
    assert found.x is None
    assert found.group == ["0", "0", "1", "1"]
    assert found.text == ["a", "", "ü\u2028", "b"]
    assert found.y.flags.c_contiguous
    np.testing.assert_array_equal(found.y, pairs.y)


def nothing_but(*names: str):
    def keep(folder) -> None:
        for file in folder.iterdir():
            if file.name not in names:
                file.unlink()

    return keep


FOLDERS = {
    "no target": (nothing_but("x.npy", "text.txt"), r"pairs needs y\.npy and \(x\.npy or text\.txt\)"),
    "no source": (nothing_but("y.npy", "group.npy"), r"pairs needs y\.npy and"),
    "no rows": (lambda f: (nothing_but()(f), [np.save(f / f"{n}.npy", np.zeros((0, 3))) for n in "xy"]), "has no rows"),
    "unequal lengths": (lambda f: np.save(f / "x.npy", np.ones((9, 3))), r"unequal length.* x\.npy 9, y\.npy 2,500"),
    "too many texts": (lambda f: (f / "text.txt").write_text("a\n" * 2501), r"text\.txt 2,501"),
    "text that is not UTF-8": (lambda f: (f / "text.txt").write_bytes(b"\xe9"), r"text\.txt is not UTF-8 text"),
    "objects": (lambda f: np.save(f / "x.npy", np.asarray([{}, 1])), r"x\.npy cannot be read \(pickled"),
    "a pickle": (lambda f: np.ones(3).dump(f / "x.npy"), r"x\.npy cannot be read \(pickled"),
    "a file cut short": (lambda f: (f / "x.npy").write_bytes((f / "x.npy").read_bytes()[:999]), "x.npy cannot be read"),
    "one vector": (lambda f: np.save(f / "x.npy", np.ones(3)), r"x\.npy holds float64 of shape \(3,\).* floats"),
    "whole numbers": (lambda f: np.save(f / "y.npy", np.ones((2500, 3), int)), r"y\.npy holds int64 .* floats"),
    "a NaN": (lambda f: np.save(f / "y.npy", np.full((2500, 3), np.nan)), r"y\.npy, row 0: .* not finite"),
    "a late zero": (lambda f: np.save(f / "x.npy", np.tri(2500, 1, -3)[::-1]), r"x\.npy, row 2497: .* is zero"),
    "float groups": (lambda f: np.save(f / "group.npy", np.ones(2500)), r"group\.npy holds float64 .* strings or"),
    "integer queries": (lambda f: np.save(f / "query.npy", np.ones(2500, int)), r"query\.npy holds int64 .* booleans"),
}


@pytest.mark.parametrize("fault", FOLDERS)
def test_a_folder_that_is_not_of_pairs_is_refused(tmp_path, fault):
    change, message = FOLDERS[fault]
    folder = write_folder(tmp_path / "pairs", many_pairs())
    change(folder)
    with pytest.raises(BadInput, match=message):
        read_pairs([folder], tmp_path)


def test_a_folder_is_not_mixed_with_files(tmp_path):
    write_pairs(tmp_path / "a.parquet", PAIRS)
    with pytest.raises(BadInput, match="A folder of arrays is read alone"):
        read_pairs([tmp_path / "a.parquet", write_folder(tmp_path / "pairs", PAIRS)])


READ = """
import resource, sys
from pathlib import Path
from ea_jax.data.pairs import read_pairs
file = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pairs = read_pairs([file], file.parent)
print(len(pairs.y), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux alone")
def test_reading_to_disk_takes_a_fraction_of_the_files_memory(tmp_path):
    rng = np.random.default_rng(0)
    x, y = (rng.random((60_000, d), np.float32) for d in (384, 512))
    write_pairs(tmp_path / "large.parquet", Pairs(x=x, y=y))
    assert (tmp_path / "large.parquet").stat().st_size > 150e6
    found = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "large.parquet")], capture_output=True, check=True, text=True
    )
    rows, kilobytes = map(int, found.stdout.split())
    assert rows == 60_000
    assert kilobytes < 120_000
