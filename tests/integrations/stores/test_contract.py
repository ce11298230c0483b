"""The contract of all stores, tested with the real engines."""

import json

import numpy as np
import pyarrow as pa
import pytest

from ea_jax.errors import BadInput, Conflict, UnknownName
from ea_jax.integrations.stores import Layout, open_store
from tests.integrations.stores.conftest import (
    ROWS,
    WIDTH,
    assert_same_rows,
    by_id,
    make_rows,
    make_store,
    read_all,
    to_lists,
)


@pytest.mark.parametrize("id_type", ["uuid", "integer"])
def test_rows_are_read_as_they_were_written(engine, id_type):
    rows = make_rows(integers=id_type == "integer")
    with make_store(engine.url("docs"), rows, id_type):
        pass
    with open_store(engine.url("docs")) as store:
        description = store.describe()
        assert (description.rows, description.width, description.other_widths) == (ROWS, WIDTH, {})
        assert description.metric in ("cosine", "dot", None)
        assert description.fields.text == engine.text
        assert_same_rows(read_all(store), rows)


def test_order_and_cursors_do_not_depend_on_batch_size(engine):
    with make_store(engine.url("docs"), make_rows()) as store:
        chunks = list(store.read(("id",), batch_rows=37))
        order = [i for rows, _ in chunks for i in rows.column("id").to_pylist()]
        assert len(set(order)) == ROWS
        assert read_all(store, ("id", "text"), 101).column("id").to_pylist() == order
    with open_store(engine.url("docs")) as store:  # as in another process
        cursor = json.loads(json.dumps(chunks[2].cursor))
        rest = [rows for rows, _ in store.read(("id", "vector"), 50, after=cursor)]
        assert pa.Table.from_batches(rest).column("id").to_pylist() == order[3 * 37 :]
        assert list(store.read(("id",), 50, after=chunks[-1].cursor)) == []


def test_only_requested_columns_are_read(engine):
    with make_store(engine.url("docs"), make_rows(20)) as store:
        assert read_all(store, ("id",)).column_names == ["id"]
        assert read_all(store, ("id", "text")).column_names == ["id", "text"]
        assert read_all(store, ("vector",)).column_names == ["id", "vector"]


def test_writes_are_idempotent(engine):
    rows, later = make_rows(), make_rows(seed=1)
    changed = later.slice(10, 50)
    with make_store(engine.url("docs"), rows) as store:
        store.write(rows)
        store.write(changed)
        store.flush()
        store.write(changed)
        store.flush()
        assert store.describe().rows == ROWS
        expected = pa.Table.from_batches([rows.slice(0, 10), changed, rows.slice(60)])
        assert_same_rows(read_all(store), expected)


def test_readers_see_publishing_and_its_undo(engine):
    rows = make_rows()
    mapped = to_lists(np.random.default_rng(2).normal(size=(ROWS, 8)))
    with make_store(engine.url("docs"), rows) as store:
        if engine.name == "qdrant":  # applications read an alias, since collections cannot be renamed
            store.publish(engine.public)
        with store.create_sibling("docs_oai", 8, "euclidean") as sibling:
            columns = {name: mapped if name == "vector" else rows.column(name) for name in sibling.needs}
            sibling.write(pa.RecordBatch.from_pydict(columns))
            sibling.flush()
        expected = by_id(rows.set_column(2, "vector", mapped))
    with open_store(engine.reader) as reader:
        assert reader.describe().width == WIDTH
        with reader.create_sibling("docs_oai", 8) as sibling:
            published = sibling.publish(engine.public)
            assert sibling.publish(engine.public)._replace(previous=published.previous) == published
    assert published.public == engine.public
    assert all(isinstance(value, str) for value in json.loads(json.dumps(published)))
    with open_store(engine.reader) as reader:
        assert reader.describe().width == 8
        assert_same_rows(read_all(reader), pa.Table.from_pylist(_as_rows(expected)))
        reader.unpublish(published)
    with open_store(engine.reader) as reader:
        assert_same_rows(read_all(reader), rows)
        reader.unpublish(published)  # repeating it changes nothing
        assert reader.describe().width == WIDTH


def _as_rows(rows: dict) -> list[dict]:
    return [{**row, "payload": json.dumps(row["payload"])} for row in rows.values()]


def test_a_missing_store_suggests_similar_names(engine):
    with make_store(engine.url("docs"), make_rows(5)):
        pass
    with pytest.raises((UnknownName, BadInput), match=r"docz.*(Did you mean|Known|does not exist)"):
        open_store(engine.url("docz"))


def test_a_wrong_field_is_an_error(engine):
    with make_store(engine.url("docs"), make_rows(5)):
        pass
    url = engine.url("docs")
    before, mark, name = url.partition("#")
    wrong = f"{before}{'&' if '?' in before else '?'}text=txet{mark}{name}"
    with pytest.raises(BadInput, match="'txet'"), open_store(wrong) as store:
        list(store.read(("id", "text")))


def test_an_empty_store_has_no_rows(engine):
    with open_store(engine.url("docs"), create=Layout(WIDTH)) as store:
        assert store.describe().rows == 0
        assert list(store.read()) == []


def test_invalid_rows_are_not_written(engine):
    rows = make_rows(6)
    with make_store(engine.url("docs"), rows) as store:
        twice = pa.RecordBatch.from_pydict({**_columns(rows), "id": ["1"] * 6})
        narrow = pa.RecordBatch.from_pydict({**_columns(rows), "vector": to_lists(np.ones((6, 3)))})
        values = np.ones((6, WIDTH))
        values[4, 2] = np.nan
        broken = pa.RecordBatch.from_pydict({**_columns(rows), "vector": to_lists(values)})
        empty = pa.array([None, *rows.column("vector").to_pylist()[1:]], rows.column("vector").type)
        missing = pa.RecordBatch.from_pydict({**_columns(rows), "vector": empty})
        for bad, message in ((twice, "twice"), (narrow, "width 3"), (broken, "not finite"), (missing, "no vector")):
            with pytest.raises(BadInput, match=message):
                store.write(bad)
        assert_same_rows(read_all(store), rows)


def _columns(rows: pa.RecordBatch) -> dict:
    return {name: rows.column(name) for name in rows.schema.names}


def test_a_row_without_text_and_payload_is_null(engine):
    rows = make_rows(6)
    bare = {**_columns(rows)}
    bare["text"] = pa.array([None, *rows.column("text").to_pylist()[1:]], pa.string())
    bare["payload"] = pa.array([None] * 6, pa.string())
    with make_store(engine.url("docs"), pa.RecordBatch.from_pydict(bare)) as store:
        observed = by_id(read_all(store))
        first = rows.column("id")[0].as_py()
        assert (observed[first]["text"], observed[first]["payload"]) == (None, {})


def test_creating_with_another_width_is_a_conflict(engine):
    with make_store(engine.url("docs"), make_rows(5)):
        pass
    with pytest.raises(Conflict, match=f"width {WIDTH}, not 9"):
        open_store(engine.url("docs"), create=Layout(9))
