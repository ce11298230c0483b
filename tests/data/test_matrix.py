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


ONLY_VECTORS = {"id": GROUPS, "embedding": X}


@pytest.fixture
def toys(monkeypatch, toy_root):
    monkeypatch.setenv("EA_JAX_REGISTRY", str(toy_root))
    return ("--source", "toy-a", "--target", "toy-b")


class Captured(Exception):
    """Ends a command once its files are read."""


def capture(monkeypatch, name, *kept):
    """Replace a function by one that keeps some arguments and ends the command."""
    found = []

    def stop(*arguments, **keywords):
        found.extend((arguments[key] if isinstance(key, int) else keywords[key]) for key in kept)
        raise Captured

    monkeypatch.setattr(name, stop)
    return found


@formats("vectors")
def test_map_takes_every_format(ea, adapt, toys, tmp_path, name):
    path = write_table(tmp_path / name, {"embedding": X} if name.endswith(".npy") else ONLY_VECTORS)
    code, _, err = ea("map", str(path), str(tmp_path / "out.npy"), *toys, "--vectors-only")
    assert code == 0, err
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), adapt(adapt.params, X), atol=1e-5)


@formats("vectors")
def test_drift_takes_every_format(ea, toys, tmp_path, monkeypatch, name):
    path = write_table(tmp_path / name, {"embedding": X} if name.endswith(".npy") else ONLY_VECTORS)
    found = capture(monkeypatch, "ea_jax.quality.scores.Quality.__call__", 2)
    with pytest.raises(Captured):
        ea("drift", "toy-a--toy-b--small", str(path))
    np.testing.assert_array_equal(found[0], X)


@formats("pairs")
@pytest.mark.parametrize("command", ["fit", "eval"])
def test_fit_and_eval_take_every_format(ea, toys, tmp_path, monkeypatch, command, name):
    path = write_table(tmp_path / name, {"content": TEXTS, "mine": X, "theirs": Y, "group": GROUPS})
    columns = ("--column", "mine", "--text-column", "content", "--target-column", "theirs")
    if command == "fit":
        found = capture(monkeypatch, "ea_jax.workflows.fit_entry.fit", 0, 1)
        line = ("fit", str(path), *toys, "--out", str(tmp_path / "mine"), "--prior", "none")
    else:
        found = capture(monkeypatch, "ea_jax.workflows.evaluate_entry._split", 0)
        line = ("eval", "--pairs", str(path), *toys)
    with pytest.raises(Captured):
        ea(*line, *columns)
    x, y = found if command == "fit" else (found[0].x, found[0].y)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)


@formats("texts")
@pytest.mark.parametrize("command", ["pairs", "embed"])
def test_pairs_and_embed_take_every_format(ea, tmp_path, monkeypatch, command, name):
    path = write_table(tmp_path / name, {"text": TEXTS} if ".txt" in name else {"id": GROUPS, "text": TEXTS})
    if command == "pairs":
        found = capture(monkeypatch, "ea_jax.workflows.collect_pairs.collect_pairs", 0)
        line = ("pairs", str(path), "--target", "oai-3-small", "--out", str(tmp_path / "pairs.parquet"))
    else:
        found = capture(monkeypatch, "ea_jax.encoders.encoder.Encoder.tokenize", 1)
        names = ("--source", "wordllama", "--target", "oai-3-small", "--no-quality")
        line = ("embed", "--input", str(path), "--output", str(tmp_path / "out.npz"), *names)
    with pytest.raises(Captured):
        ea(*line)
    texts = list(found[0] if command == "embed" else found[0].text)
    assert texts == (TEXTS[:2] if (command, name) == ("embed", "dataset") else TEXTS)  # its first file has two rows
