import gzip

import pyarrow as pa
import pytest
from pyarrow import parquet

from ea_jax.data.texts import read_texts
from ea_jax.errors import BadInput

FAULTY = {
    "a.txt": (b"a\n\nb\n", r"a\.txt, line 2: the text is empty"),
    "b.txt": (b"a\n \t\n", r"b\.txt, line 2: the text is empty"),
    "c.txt": (b"caf\xe9\n", r"c\.txt is not UTF-8 text"),
    "d.txt": (b"", r"There are no texts in .*d\.txt"),
    "a.jsonl": (b'{"text": "a"}\n\n{"text": null}', r"a\.jsonl, row 1: the text is null"),
    "b.jsonl": (b'{"text": "a"}\n{"text"', r"b\.jsonl, row 1: the line cannot be parsed: Missing a colon"),
    "c.jsonl": (b'{"text": 1}', r"c\.jsonl: Column text holds int64, not strings"),
    "d.jsonl": (b'["a"]', r"d\.jsonl, row 0: the line cannot be parsed: .*from object to array"),
    "e.jsonl": (b'{"text": "a", "group": "g"}\n{"text": "b"}', r"e\.jsonl, row 1: the group is null"),
    "f.jsonl": (b'{"text": "\\ud800"}', r"f\.jsonl, row 0: the line cannot be parsed: The surrogate pair"),
    "a.jsonl.gz": (gzip.compress(b'{"text": "a"}' * 99)[:-20], r"a\.jsonl\.gz cannot be read"),
    "a.parquet": (b"PAR1 but not really", r"a\.parquet cannot be read"),
    "a.xls": (b"a", r"a\.xls has an unknown format"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_bad_row_or_file_is_named(tmp_path, name):
    data, message = FAULTY[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadInput, match=message):
        read_texts([tmp_path / name])


def test_bad_rows_of_parquet_and_missing_files_are_named(tmp_path):
    with pytest.raises(BadInput, match=r"none\.txt is not a file"):
        read_texts([tmp_path / "none.txt"])
    parquet.write_table(pa.table({"text": ["a", ""], "group": ["g", "h"]}), tmp_path / "empty.parquet")
    with pytest.raises(BadInput, match=r"empty\.parquet, row 1: the text is empty"):
        read_texts([tmp_path / "empty.parquet"])
    parquet.write_table(pa.table({"text": ["a"], "group": [1]}), tmp_path / "number.parquet")
    assert read_texts([tmp_path / "number.parquet"]).group == ["1"]  # A9: integers are groups
    parquet.write_table(pa.table({"text": ["a"], "group": ["g"]}), tmp_path / "good.parquet")
    (lines := tmp_path / "texts.txt").write_text("a")
    for files in ([lines, tmp_path / "good.parquet"], [tmp_path / "good.parquet", lines]):
        with pytest.raises(BadInput, match=r"good\.parquet has the column group, but .*texts\.txt has not"):
            read_texts(files)


def test_a_mark_at_the_start_of_a_file_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert read_texts([tmp_path / "a.txt"]).text == ["a", "b"]
