"""Endpoints with limits: encodings, sizes of requests, lengths of texts, and truncated vectors."""

import base64

import numpy as np
import pytest
from pyarrow import parquet

from ea_jax.data.pairs import read_pairs
from ea_jax.providers import openai_compatible as providing
from tests.support.openai_server import (
    base64_refused,
    changed,
    content,
    empty_in_base64,
    limited,
    limited_length,
    recoded,
    status,
    vector,
)
from tests.workflows.conftest import SPACES, TEXTS, check_rows


@pytest.mark.parametrize("fault", [base64_refused, empty_in_base64], ids=["refused", "empty"])
def test_float_is_requested_once_and_kept(pairs, provider, tmp_path, fault):
    """A19"""
    provider.faults = [fault] * 20
    code, _, err = pairs("--workers", "1")
    assert code == 0, err
    assert [body["encoding_format"] for body in provider.requests] == ["base64"] + ["float"] * 10
    assert "does not answer in base64" in err
    check_rows(tmp_path / "pairs.parquet")


def test_base64_is_kept_when_it_works(pairs, provider, tmp_path):
    """A19"""
    provider.faults = [changed(lambda data: data)] * 2
    assert pairs("--workers", "1")[0] == 0
    assert {body["encoding_format"] for body in provider.requests} == {"base64"}


@pytest.mark.parametrize("code", [422, 413, 500])
def test_requests_shrink_to_the_limit_and_stay_there(pairs, provider, tmp_path, monkeypatch, code):
    """A20"""
    monkeypatch.setattr(providing, "TRIES_BEFORE_HALVING", 2)
    provider.faults = [limited(10, status(code))] * 100
    result, _, err = pairs("--workers", "1", size="40")
    assert result == 0, err
    check_rows(tmp_path / "pairs.parquet")
    sizes = [len(body["input"]) for body in provider.requests]
    accepted = [size for size in sizes if size <= 10]
    assert max(accepted) == 10
    assert sizes.index(10) == len(sizes) - len(accepted)
    assert "requests of 20 texts; they now have at most 10" in err


def test_a_limit_is_remembered_for_later_requests(pairs, provider, tmp_path):
    """A20"""
    provider.faults = [limited(10, status(413))] * 100
    assert pairs("--workers", "1", size="20")[0] == 0
    assert [len(body["input"]) for body in provider.requests] == [20, 10, 10, 10, 10]
    check_rows(tmp_path / "pairs.parquet")


def test_a_400_that_names_the_batch_size_halves_the_request(pairs, provider, tmp_path):
    """A20"""
    refusal = status(400, message="batch size is invalid, it should not be larger than 10.")
    provider.faults = [limited(10, refusal)] * 100
    assert pairs("--workers", "1", size="20")[0] == 0
    check_rows(tmp_path / "pairs.parquet")


LONG = [*TEXTS[:5], "a long text " * 20, *TEXTS[5:9]]
LIMIT = limited_length(100, status(400, message="maximum context length is 100 tokens"))


def test_a_text_that_is_too_long_stops_by_default(pairs, provider, lines):
    """A22"""
    lines.write_text("\n".join(LONG))
    provider.faults = [LIMIT] * 100
    code, _, err = pairs()
    assert code == 1
    assert "The longest of them is text 5 with 240 characters" in err


def test_texts_that_are_too_long_can_be_skipped(pairs, provider, lines, tmp_path):
    """A22"""
    lines.write_text("\n".join(LONG))
    provider.faults = [LIMIT] * 100
    code, _, err = pairs("--too-long", "skip", "--workers", "1", size="8")
    assert code == 0, err
    assert "text 5 is too long for toy-embedding and is skipped: 'a long text" in err
    check_rows(tmp_path / "pairs.parquet", TEXTS[:9])
    assert "at most" not in err


def test_texts_that_are_too_long_can_be_cut(pairs, provider, lines, tmp_path):
    """A22"""
    lines.write_text("\n".join(LONG))
    provider.faults = [LIMIT] * 100
    code, _, err = pairs("--too-long", "cut", "--workers", "1", size="8")
    assert code == 0, err
    result = read_pairs([tmp_path / "pairs.parquet"])
    assert result.text == LONG
    kept = 75  # 240, 180, 135 and 101 characters are too many
    assert f"only its first {kept} characters are used" in err
    np.testing.assert_allclose(result.y[5], vector(LONG[5][:kept]), atol=1e-7)


def test_a_job_of_skipped_texts_alone_fails(pairs, provider, lines, tmp_path):
    """A22"""
    lines.write_text(LONG[5])
    provider.faults = [LIMIT] * 100
    code, _, err = pairs("--too-long", "skip")
    assert code == 1
    assert "Every text was skipped" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spaces", "texts.txt"]


def test_empty_texts_can_be_skipped(pairs, provider, lines, tmp_path):
    """A23"""
    lines.write_text("\n".join([*TEXTS[:3], "", "  ", *TEXTS[3:]]))
    code, _, err = pairs()
    assert code == 1
    assert "line 4" in err
    assert pairs("--skip-empty")[0] == 0
    check_rows(tmp_path / "pairs.parquet")


def truncated(width: int):
    """Return vectors of width 12 truncated to another width, without scaling them."""

    def truncate(data):
        for item in data:
            item["embedding"] = base64.b64encode(base64.b64decode(item["embedding"])[: 4 * width]).decode()
        return data

    return lambda handler, body: handler.send(200, content(body | {"dimensions": 12}, truncate))


@pytest.mark.parametrize("width", [8, 12], ids=["by the endpoint", "by us"])
def test_truncated_vectors_of_matryoshka_models_are_normalized(pairs, provider, tmp_path, width):
    """A24"""
    (tmp_path / "spaces" / "spaces.toml").write_text(
        SPACES.replace("unit_norm = true", "unit_norm = true\nmatryoshka = true")
    )
    provider.faults = [truncated(width)] * 10
    code, _, err = pairs("--dimensions", "8")
    assert code == 0, err
    result = read_pairs([tmp_path / "pairs.parquet"])
    expected = np.stack([vector(text)[:8] for text in TEXTS])
    np.testing.assert_allclose(result.y, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    assert parquet.read_schema(tmp_path / "pairs.parquet").metadata[b"ea_jax.dimensions"] == b"8"


def test_short_vectors_of_other_models_are_refused(pairs, provider):
    """A24"""
    provider.faults = [recoded(lambda y: y * 0.5)]
    code, _, err = pairs("--dimensions", "12", "--workers", "1")
    assert code == 1
    assert "the vector has length 0.5" in err


@pytest.mark.parametrize("fault", [limited(10, status(413)), base64_refused, empty_in_base64])
def test_workers_share_an_endpoint_with_limits(pairs, provider, tmp_path, fault):
    """A19, A20"""
    provider.faults = [fault] * 100
    code, _, err = pairs("--workers", "4", size="20")
    assert code == 0, err
    check_rows(tmp_path / "pairs.parquet")
