"""Every format by every kind, and by every command that takes it: the same five rows give the same result (A18)."""

import numpy as np
import pytest

from ea_jax.data.columns import Columns
from ea_jax.data.pairs import read_pairs
from ea_jax.data.texts import read_texts
from ea_jax.data.vectors import has_vectors, read_vectors
from tests.conftest import unit_rows
from tests.support.tables import FORMATS, write_table

TEXTS = ["plain", 'comma, and "quotes"', "semicolon; tab", "ümläut €", "a | pipe"]
X, Y = unit_rows(np.random.default_rng(1), 5, 8), unit_rows(np.random.default_rng(2), 5, 12)
GROUPS = [7, 7, 8, 8, 9]


def formats(kind):
    return pytest.mark.parametrize("name", [name for name, kinds in FORMATS.items() if kind in kinds])


@formats("vectors")
def test_vectors_are_the_same_from_every_format(tmp_path, name):
    path = write_table(tmp_path / name, {"embedding": X} if name.endswith(".npy") else {"id": GROUPS, "embedding": X})
    np.testing.assert_array_equal(read_vectors(path), X)
    assert has_vectors(path)


@formats("texts")
def test_texts_are_the_same_from_every_format(tmp_path, name):
    """A7: also with semicolons and tabs."""
    path = write_table(tmp_path / name, {"text": TEXTS} if ".txt" in name else {"text": TEXTS, "group": GROUPS})
    texts = read_texts([path])
    assert texts.text == TEXTS
    assert texts.group == (None if ".txt" in name else [str(group) for group in GROUPS])
    assert not has_vectors(path)


@formats("pairs")
@pytest.mark.parametrize("named", [False, True])
def test_pairs_are_the_same_from_every_format(tmp_path, name, named):
    """A18: the columns may have other names."""
    names = {"text": "content", "x": "mini", "y": "openai"} if named else {"text": "text", "x": "x", "y": "y"}
    columns = {names["text"]: TEXTS, names["x"]: X, names["y"]: Y, "group": GROUPS}
    path = write_table(tmp_path / name, columns)
    pairs = read_pairs([path], columns=Columns("mini", "content", "openai") if named else None)
    np.testing.assert_array_equal(pairs.x, X)
    np.testing.assert_array_equal(pairs.y, Y)
    assert (pairs.text, pairs.group) == (TEXTS, [str(group) for group in GROUPS])
