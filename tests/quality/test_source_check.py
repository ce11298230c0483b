"""Vectors of another model are noticed before they are used (A2)."""

import logging

import numpy as np
import pytest

from ea_jax import load_quality
from ea_jax.data.pairs import Pairs, write_pairs
from ea_jax.errors import FingerprintMismatch
from ea_jax.quality.source_check import check_source_sample, foreign_fraction
from tests.support.texts import PHRASES


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def quality():
    return load_quality("minilm", "oai-3-small")


def wrong_vectors(x):
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.normal(size=(384, 384)))
    return {
        "rotated": x @ rotation.astype(np.float32),
        "permuted": x[:, rng.permutation(384)],
        "random": unit(rng.normal(size=(60, 384)).astype(np.float32)),
        "another model, with one large dimension": unit(
            rng.normal(size=(60, 384)).astype(np.float32) + np.eye(384, dtype=np.float32)[7] * 10
        ),
    }


@pytest.fixture(scope="module")
def x(minilm):
    return minilm([f"{text} {number}" for number, text in enumerate((PHRASES * 60)[:60])])


def test_vectors_of_the_model_pass_in_silence(quality, x, caplog):
    """A2"""
    with caplog.at_level(logging.WARNING):
        check_source_sample(quality, x, "x.npy")
    assert not caplog.records


@pytest.mark.parametrize("kind", ["rotated", "permuted", "random", "another model, with one large dimension"])
def test_vectors_of_another_model_stop(quality, x, caplog, kind):
    """A2"""
    wrong = wrong_vectors(x)[kind]
    with pytest.raises(FingerprintMismatch, match=r"x\.npy: \d+% of 60 sampled vectors do not look like"):
        check_source_sample(quality, wrong, "x.npy")
    check_source_sample(quality, wrong, "x.npy", assume_source=True)
    assert len(caplog.records) == 1


def test_some_vectors_of_another_model_are_one_line(quality, x, caplog):
    """A2"""
    mixed = np.concatenate([x[:40], wrong_vectors(x)["rotated"][:20]])
    assert 0.2 < foreign_fraction(quality, mixed) < 0.5
    check_source_sample(quality, mixed, "x.npy")
    assert len(caplog.records) == 1


def test_map_stops_before_the_first_part(ea, x, tmp_path):
    """A2"""
    np.save(tmp_path / "x.npy", wrong_vectors(x)["rotated"])
    line = (
        "map",
        str(tmp_path / "x.npy"),
        str(tmp_path / "out.parquet"),
        "--source",
        "minilm",
        "--target",
        "oai-3-small",
    )
    code, _, err = ea(*line)
    assert code == 1
    assert "do not look like vectors of" in err
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]
    assert ea(*line, "--assume-source")[0] == 0
    assert (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("command", ["fit", "eval", "drift"])
def test_commands_stop_at_vectors_of_another_model(ea, x, tmp_path, command):
    """A2"""
    wrong, y = wrong_vectors(x)["rotated"], unit(np.random.default_rng(1).normal(size=(60, 1536)).astype(np.float32))
    np.save(tmp_path / "x.npy", wrong)
    write_pairs(tmp_path / "pairs.parquet", Pairs(x=wrong, y=y))
    names, pairs = ("--source", "minilm", "--target", "oai-3-small"), str(tmp_path / "pairs.parquet")
    arguments = {
        "fit": ("fit", pairs, *names, "--out", str(tmp_path / "registry")),
        "eval": ("eval", *names, "--pairs", pairs),
        "drift": ("drift", "minilm--oai-3-small--small", str(tmp_path / "x.npy")),
    }[command]
    code, out, err = ea(*arguments)
    assert (code, out) == (1, "")
    assert "do not look like vectors of sentence-transformers/all-MiniLM-L6-v2" in err.splitlines()[-1]
    assert not (tmp_path / "registry").exists()
