"""Inputs that people have, by their ids in the list of cases: each is read, or refused with its row."""

import base64
import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ea_jax.data.columns import Columns
from ea_jax.data.pairs import read_pairs
from ea_jax.data.tables import find_files, open_tables
from ea_jax.data.texts import read_texts
from ea_jax.data.vectors import read_vectors
from ea_jax.embeddings import VectorRule, check_rows
from ea_jax.errors import BadInput
from tests.conftest import unit_rows
from tests.support.tables import write_dataset, write_table

TEXTS = ["a", "b, c", "d", "ü", "e"]
X = unit_rows(np.random.default_rng(1), 5, 8)
UNIT = VectorRule("toy/source", 8, unit_norm=True)
LISTS = X.tolist()


def vectors_of(tmp_path, column, rule=None, name="embedding"):
    parquet.write_table(pa.table({"id": range(len(column)), name: column}), tmp_path / "x.parquet")
    return read_vectors(tmp_path / "x.parquet", rule=rule)


def test_lengths_within_two_percent_are_rescaled():
    """A1"""
    scale = np.float32([1, 1.0005, 1.015, 0.985, 1])
    x, reasons = check_rows(X * scale[:, None], UNIT)
    assert not reasons
    np.testing.assert_allclose(x[[0, 2, 3, 4]], X[[0, 2, 3, 4]], atol=1e-6)
    np.testing.assert_array_equal(x[1], X[1] * scale[1])  # float16 rounding is left as it is


@pytest.mark.parametrize("scale", [5, 1.03, 0.5])
def test_other_lengths_are_refused_with_row_and_length(scale):
    """A1"""
    x = X.copy()
    x[3] *= scale
    _, reasons = check_rows(x, UNIT)
    assert reasons == {
        3: f"the vector has length {scale:.3f}, but vectors of toy/source have length 1. "
        "Set `normalize` to rescale them"
    }
    rescaled, reasons = check_rows(x, VectorRule("toy/source", 8, unit_norm=True, normalize=True))
    assert not reasons
    np.testing.assert_allclose(rescaled, X, atol=1e-6)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_bare_codes_are_refused(tmp_path, kind):
    """A1: the scale of int8 codes is unknown without our metadata, and that of uint8 always."""
    codes = np.round(np.abs(X) * 127).astype(kind)
    message = "uint8 codes" if kind is np.uint8 else "row 0: the vector has length 1"
    with pytest.raises(BadInput, match=message):
        vectors_of(tmp_path, pa.array(codes.tolist(), pa.list_(pa.from_numpy_dtype(kind))), UNIT)


def test_our_int8_output_is_read_with_its_scales(tmp_path):
    """A1"""
    scale = np.abs(X).max(1) / 127
    codes = pa.array(np.round(X / scale[:, None]).astype(np.int8).tolist(), pa.list_(pa.int8(), 8))
    table = pa.table({"v": codes, "v_scale": scale})
    parquet.write_table(table.replace_schema_metadata({"ea_jax": json.dumps({"target": "m"})}), tmp_path / "x.parquet")
    np.testing.assert_allclose(read_vectors(tmp_path / "x.parquet", rule=UNIT), X, atol=0.01)
    parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(BadInput, match="row 0: the vector has length 200"):
        read_vectors(tmp_path / "x.parquet", rule=UNIT)


STRINGS = {
    "large_string": pa.array(TEXTS, pa.large_string()),
    "dictionary": pa.array(TEXTS).dictionary_encode(),
    "string_view": pa.array(TEXTS, pa.string_view()),
}


@pytest.mark.parametrize("kind", STRINGS)
def test_strings_are_strings_whatever_holds_them(tmp_path, kind):
    """A9, A11: also integer groups."""
    with pa.ipc.new_file(
        tmp_path / "x.arrow", (table := pa.table({"text": STRINGS[kind], "group": [1, 1, 2, 2, 3]})).schema
    ) as file:
        file.write_table(table)
    texts = read_texts([tmp_path / "x.arrow"])
    assert (texts.text, texts.group) == (TEXTS, ["1", "1", "2", "2", "3"])
    table = pa.table({"text": STRINGS[kind], "y": LISTS, "group": [1, 1, 2, 2, 3]})
    if kind != "string_view":  # parquet of some versions of Arrow cannot hold it
        parquet.write_table(table, tmp_path / "x.parquet")
        assert read_pairs([tmp_path / "x.parquet"]).text == TEXTS


def test_a_data_frame_of_pandas_is_read(tmp_path):
    """A9"""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": TEXTS, "y": list(X), "group": [1, 1, 2, 2, 3]})
    frame.to_parquet(tmp_path / "x.parquet")
    frame.assign(y=[json.dumps(row) for row in LISTS]).to_csv(tmp_path / "x.csv", index=False)
    for name in ("x.parquet", "x.csv"):
        pairs = read_pairs([tmp_path / name])
        assert (pairs.text, pairs.group) == (TEXTS, ["1", "1", "2", "2", "3"])
        np.testing.assert_array_equal(pairs.y, X)


def test_a_folder_of_datasets_is_read_by_its_own_list(tmp_path):
    """A10"""
    table = pa.table({"text": TEXTS, "embedding": LISTS})
    write_dataset(tmp_path / "one", table)
    (tmp_path / "one" / "cache-1.arrow").write_bytes(b"not listed")
    np.testing.assert_array_equal(read_vectors(tmp_path / "one"), X)
    (tmp_path / "dict").mkdir()
    write_dataset(tmp_path / "dict" / "train", table)
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    np.testing.assert_array_equal(read_vectors(tmp_path / "dict"), X)
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(BadInput, match=r"holds the splits train, test\. Name one"):
        find_files([tmp_path / "dict"])


@pytest.mark.parametrize(
    "kind", [pa.list_view(pa.float32()), pa.large_list_view(pa.float64()), pa.large_list(pa.float32())]
)
def test_views_of_lists_are_read(tmp_path, kind):
    """A11"""
    table = pa.table({"embedding": pa.array(LISTS, kind)})
    with pa.ipc.new_file(tmp_path / "x.arrow", table.schema) as file:
        file.write_table(table)
    np.testing.assert_array_equal(read_vectors(tmp_path / "x.arrow"), X)


WRITTEN = {
    "JSON": lambda row: json.dumps(row),
    "pgvector": lambda row: "[" + ",".join(map(str, row)) + "]",
    "Postgres": lambda row: " {" + ",".join(map(str, row)) + "}",
    "JSON on lines": lambda row: json.dumps(row, indent=1),
    "base64 of float32": lambda row: base64.b64encode(np.asarray(row, "<f4").tobytes()).decode(),
}


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_vectors_as_text_are_parsed(tmp_path, form, name):
    """A12, A14"""
    path = write_table(tmp_path / name, {"id": [1, 2, 3, 4, 5], "vector": [WRITTEN[form](row) for row in LISTS]})
    np.testing.assert_array_equal(read_vectors(path), X)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[0.1 0.2 ... 0.3]", r"the text holds '\.\.\.': its numbers were lost"),
        ("[0.1, oops]", "the text is not a list of numbers"),
        ("[0.1, 0.2]", "the vector has width 2, but the first has width 8"),
        ('[0.1], "w": [0.2]', "the text is neither a list of numbers nor base64"),
        ("0.1, 0.2", "the text is neither a list of numbers nor base64"),
        ("[1e999, 0, 0, 0, 0, 0, 0, 0]", "the text is not a list of numbers"),
        (None, "the value is null"),
    ],
)
def test_a_bad_vector_as_text_has_a_reason(tmp_path, text, message):
    """A12"""
    rows = [json.dumps(row) for row in LISTS]
    rows[3] = text
    with pytest.raises(BadInput, match=f"column embedding, row 3: {message}"):
        vectors_of(tmp_path, pa.array(rows))


@pytest.mark.parametrize("dtype", ["<f4", "<f2"])
@pytest.mark.parametrize("kind", ["binary", "fixed"])
def test_bytes_of_exact_length_are_numbers(tmp_path, dtype, kind):
    """A14"""
    content = [row.astype(dtype).tobytes() for row in X]
    arrow = pa.binary() if kind == "binary" else pa.binary(len(content[0]))
    np.testing.assert_array_equal(vectors_of(tmp_path, pa.array(content, arrow), UNIT), X.astype(dtype).astype("f4"))
    content[2] = content[2][:-2]
    with pytest.raises(BadInput, match=r"row 2: the value has \d+ bytes; a vector of width 8 takes 32 or 16"):
        vectors_of(tmp_path, pa.array(content), UNIT)


def test_shards_are_unified_by_name(tmp_path):
    """A15: another order, a column that is null in one shard, float beside double."""
    (tmp_path / "in").mkdir()
    first = pa.table({"id": [1, 2], "note": pa.nulls(2), "embedding": pa.array(LISTS[:2], pa.list_(pa.float32()))})
    second = pa.table(
        {"embedding": pa.array(LISTS[2:], pa.list_(pa.float64(), 8)), "note": ["a", "b", "c"], "id": [3, 4, 5]}
    )
    parquet.write_table(first, tmp_path / "in" / "a.parquet")
    parquet.write_table(second, tmp_path / "in" / "b.parquet")
    np.testing.assert_array_equal(read_vectors(tmp_path / "in"), X)
    schema = open_tables([tmp_path / "in"]).schema
    assert (schema.names, schema.field("note").type) == (["id", "note", "embedding"], pa.string())
    parquet.write_table(second.drop_columns("note"), tmp_path / "in" / "b.parquet")
    with pytest.raises(BadInput, match=r"b\.parquet has the columns embedding, id, but .*a\.parquet has id, note, emb"):
        open_tables([tmp_path / "in"])


def test_tensors_nested_lists_and_structs_are_unwrapped(tmp_path):
    """A16"""
    tensor = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), [8]), pa.array(LISTS, pa.list_(pa.float32(), 8))
    )
    np.testing.assert_array_equal(vectors_of(tmp_path, tensor), X)
    np.testing.assert_array_equal(vectors_of(tmp_path, pa.array([[row] for row in LISTS])), X)
    parquet.write_table(pa.table({"emb": [{"vector": row, "model": "m"} for row in LISTS]}), tmp_path / "x.parquet")
    np.testing.assert_array_equal(read_vectors(tmp_path / "x.parquet", "emb.vector"), X)
    with pytest.raises(BadInput, match=r"Column emb\.other does not exist"):
        read_vectors(tmp_path / "x.parquet", "emb.other")
    nested = [[row] for row in LISTS]
    nested[2] = [LISTS[2], LISTS[3]]
    with pytest.raises(BadInput, match="row 2: the row holds 2 vectors, not one"):
        vectors_of(tmp_path, pa.array(nested))


@pytest.mark.parametrize("name", ["embedding", "embeddings", "vector"])
@pytest.mark.parametrize("text", ["text", "content", "document"])
def test_common_names_are_found(tmp_path, name, text):
    """A18"""
    table = {"id": [1, 2, 3, 4, 5], text: TEXTS, "note": TEXTS, "scores": [[1.0, 2.0]] * 5, name: LISTS}
    parquet.write_table(pa.table(table), tmp_path / "x.parquet")
    np.testing.assert_array_equal(read_vectors(tmp_path / "x.parquet"), X)
    assert read_texts([tmp_path / "x.parquet"]).text == TEXTS
    pairs = read_pairs([tmp_path / "x.parquet"])
    np.testing.assert_array_equal(pairs.y, X)
    assert pairs.text == TEXTS
    parquet.write_table(pa.table({"a": LISTS, "b": LISTS, "text": TEXTS}), tmp_path / "x.parquet")
    with pytest.raises(BadInput, match="Several columns hold vectors"):
        read_pairs([tmp_path / "x.parquet"], columns=Columns())


def test_a_delimiter_may_be_given(tmp_path):
    """A7"""
    (tmp_path / "x.csv").write_text("id:text\n1:a;b,c\n")
    assert read_texts([tmp_path / "x.csv"], delimiter=":").text == ["a;b,c"]
    (tmp_path / "utf16.csv").write_text("text\na\n", encoding="utf-16")
    with pytest.raises(BadInput, match="UTF-16 text"):
        read_texts([tmp_path / "utf16.csv"])
