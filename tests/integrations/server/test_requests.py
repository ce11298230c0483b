"""Requests are validated like OpenAI does, and errors name the field."""

import json

import pytest

from ea_jax.integrations.server.errors import ApiError
from ea_jax.integrations.server.models import ServedModel, make_catalog
from ea_jax.integrations.server.requests import MAX_TOKENS, check_content_type, parse_request
from ea_jax.integrations.server.vocabulary import Vocabulary, find_vocabulary

GOOD = {"model": "toy-target", "input": "hello"}


class Bytes:
    """A tiktoken encoding whose tokens are bytes."""

    def encode(self, text, disallowed_special):
        return list(text.encode())

    def decode_single_token_bytes(self, token):
        if not 0 <= token < 256:
            raise KeyError(token)
        return bytes([token])


@pytest.fixture(scope="module")
def with_vocabulary(toy):
    return make_catalog([ServedModel("toy-target", (), toy, Vocabulary(Bytes()))])


@pytest.fixture(scope="module")
def uncut(toy):
    from dataclasses import replace

    return make_catalog([ServedModel("toy-target", (), replace(toy, matryoshka=False))])


def parse(catalog, **fields):
    return parse_request(json.dumps(GOOD | fields).encode(), catalog)


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"model": None}, 400, None, None),
        ({"model": ""}, 400, None, None),
        ({"model": 3}, 400, "model", "invalid_type"),
        ({"model": "gpt"}, 404, "model", "model_not_found"),
        ({"model": "toy-target@both"}, 404, "model", "model_not_found"),
        ({"input": None}, 400, "input", "missing_required_parameter"),
        ({"input": ""}, 400, "input", "empty_string"),
        ({"input": ["a", ""]}, 400, "input", "empty_string"),
        ({"input": []}, 400, "input", "empty_array"),
        ({"input": [[]]}, 400, "input", "empty_array"),
        ({"input": ["a"] * 2049}, 400, "input", "array_above_max_length"),
        ({"input": ["a", 1]}, 400, "input", "invalid_type"),
        ({"input": ["a", ["b"]]}, 400, "input", "invalid_type"),
        ({"input": [True, False]}, 400, "input[0]", "invalid_type"),
        ({"input": [1.5]}, 400, "input[0]", "invalid_type"),
        ({"input": [None]}, 400, "input[0]", "invalid_type"),
        ({"input": {"text": "a"}}, 400, "input", "invalid_type"),
        ({"input": 7}, 400, "input", "invalid_type"),
        ({"input": "a" * 1_000_001}, 400, "input", "context_length_exceeded"),
        ({"input": "a \ud800 b"}, 400, "input", "invalid_string"),
        ({"input": [1, 2]}, 400, "input", "tokens_not_supported"),
        ({"input": [[1, 2]]}, 400, "input", "tokens_not_supported"),
        ({"encoding_format": "int8"}, 400, "encoding_format", "invalid_value"),
        ({"encoding_format": 1}, 400, "encoding_format", "invalid_value"),
        ({"dimensions": 0}, 400, "dimensions", "invalid_value"),
        ({"dimensions": 13}, 400, "dimensions", "invalid_value"),
        ({"dimensions": 10**400}, 400, "dimensions", "invalid_value"),
        ({"dimensions": True}, 400, "dimensions", "invalid_type"),
        ({"dimensions": "4"}, 400, "dimensions", "invalid_type"),
        ({"user": 4}, 400, "user", "invalid_type"),
        ({"quality": "yes"}, 400, "quality", "invalid_type"),
    ],
)
def test_a_bad_field_is_named(catalog, fields, status, param, code):
    with pytest.raises(ApiError) as caught:
        parse(catalog, **fields)
    assert (caught.value.status, caught.value.param, caught.value.code) == (status, param, code)
    assert set(json.loads(caught.value.body())["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b"[1]", b'"a"', b"null", b"[" * 100_000, b'{"a": 1' + b"0" * 5000]
)
def test_a_body_other_than_an_object_is_refused(catalog, body):
    with pytest.raises(ApiError) as caught:
        parse_request(body, catalog)
    assert caught.value.status == 400


def test_the_default_purpose_is_used_for_a_bare_name(catalog, toy):
    other = make_catalog([ServedModel("toy-target", (), toy)], "store")
    assert [parse(c).purpose for c in (catalog, other)] == ["query", "store"]
    assert [parse(catalog, model=f"toy-b@{p}").purpose for p in ("query", "store")] == ["query", "store"]
    assert parse(catalog, model="TOY/target").model is parse(catalog).model


def test_token_ids_are_decoded_and_counted(with_vocabulary):
    ids = [list("héllo".encode()), list(b"two words")]
    parsed = parse(with_vocabulary, input=ids)
    assert parsed.texts == ("héllo", "two words")
    assert parsed.tokens == (6, 9)
    assert parse(with_vocabulary, input=ids[1]).texts == ("two words",)


@pytest.mark.parametrize("ids", [[300], [-1], [10**30], [[300]], [["a"]], [[1.0]], [[True]]])
def test_unknown_token_ids_are_refused(with_vocabulary, ids):
    with pytest.raises(ApiError) as caught:
        parse(with_vocabulary, input=ids)
    assert caught.value.status == 400


@pytest.mark.parametrize("value", ["a" * (MAX_TOKENS + 1), [97] * (MAX_TOKENS + 1)])
def test_texts_beyond_the_models_context_are_refused(with_vocabulary, value):
    assert parse(with_vocabulary, input=value[:-1]).tokens == (MAX_TOKENS,)
    with pytest.raises(ApiError, match="8,192 tokens") as caught:
        parse(with_vocabulary, input=value)
    assert caught.value.code == "context_length_exceeded"


def test_a_request_has_a_limit_of_tokens(with_vocabulary):
    with pytest.raises(ApiError, match="max 300,000 tokens"):
        parse(with_vocabulary, input=["a" * 8000] * 40)


def test_dimensions_require_a_matryoshka_target(catalog, uncut):
    assert parse(catalog, dimensions=4).dimensions == 4
    assert parse(uncut, dimensions=12).dimensions == 12
    with pytest.raises(ApiError, match="no shorter embeddings"):
        parse(uncut, dimensions=4)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_browsers_cannot_send_across_sites(kind):
    check_content_type("application/json; charset=utf-8")
    check_content_type(None)
    if kind:
        with pytest.raises(ApiError, match="Unsupported content type"):
            check_content_type(kind)


def test_no_vocabulary_is_downloaded(tmp_path, monkeypatch):
    find_vocabulary.cache_clear()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert find_vocabulary("text-embedding-3-small") is None
    find_vocabulary.cache_clear()
