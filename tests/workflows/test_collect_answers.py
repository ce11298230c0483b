import os
import random
import re
import sys
import time
from email.utils import formatdate

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ea_jax.data.pairs import read_pairs
from ea_jax.providers import openai_compatible as providing
from ea_jax.providers.openai_compatible import retry_after
from tests.support.openai_server import (
    answer,
    changed,
    content,
    cut,
    cut_without_length,
    delayed,
    hang_up,
    html_page,
    recoded,
    status,
    together,
)
from tests.workflows.conftest import KEY, TEXTS, check_rows


def test_pairs_are_the_providers_vectors_in_order(pairs, provider, tmp_path):
    provider.faults = together(3)
    code, out, err = pairs("--workers", "3")
    assert (code, out) == (0, f"{tmp_path / 'pairs.parquet'}\n")
    check_rows(tmp_path / "pairs.parquet")
    assert sorted(provider.texts) == sorted(TEXTS)
    assert {len(body["input"]) for body in provider.requests} == {4}
    assert all(body["model"] == "toy-embedding" and "dimensions" not in body for body in provider.requests)
    assert provider.most_active == 3
    assert provider.keys == {f"Bearer {KEY}"}
    assert "counted 120 tokens" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.parquet", "spaces", "texts.txt"]


def test_the_file_records_its_model_and_fixed_width_vectors(pairs, tmp_path):
    assert pairs()[0] == 0
    schema = parquet.read_schema(tmp_path / "pairs.parquet")
    assert schema.names == ["text", "y"]
    assert schema.field("y").type == pa.list_(pa.float32(), 12)
    facts = {"target": "openai/toy-embedding", "model": "toy-embedding", "dimensions": "12"}
    assert {f"ea_jax.{key}".encode(): value.encode() for key, value in facts.items()}.items() <= schema.metadata.items()


def test_the_key_is_neither_printed_nor_written(pairs, provider, tmp_path):
    quoting = {"message": f"{'o' * 280} {KEY} is of no use"}  # crosses the length at which messages are cut
    provider.faults = [status(code, **quoting) for code in (500, 400, 400)]
    message = [pairs("--workers", "1"), pairs()]
    for code in (401, 403, 404, 422):
        provider.faults = [status(code, **quoting)] * (6 if code == 422 else 1)
        (tmp_path / "pairs.parquet").unlink(missing_ok=True)
        message.append(pairs("--workers", "1"))
    assert [code for code, _, _ in message] == [1, 0, 1, 1, 1, 1]
    assert not any(KEY[:9] in out + err for _, out, err in message)
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("name", "fault"),
    {
        "500": status(500),
        "503 with a wait": status(503, {"Retry-After": "0"}),
        "409": status(409),
        "429": status(429),
        "cut": cut,
        "cut, without length": cut_without_length,
        "hung up": hang_up,
        "a page": html_page,
        "JSON of another kind": lambda handler, body: handler.send(200, b'{"error": {"message": "overloaded"}}'),
        "JSON that is cut": lambda handler, body: handler.send(200, content(body)[:-9]),
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_transient_failures_are_retried(pairs, provider, tmp_path, name, fault):
    provider.faults = [fault] * 3
    code, _, err = pairs("--workers", "1")
    assert code == 0, err
    check_rows(tmp_path / "pairs.parquet")
    assert len(provider.requests) == 13
    assert err.count("trying again in 0.") == 3
    assert provider.requests[0]["input"] == provider.requests[3]["input"]


def test_a_slow_answer_is_requested_again(pairs, provider, tmp_path, monkeypatch):
    monkeypatch.setattr(providing, "TIMEOUT", 0.2)
    provider.faults = [delayed]
    code, _, err = pairs("--workers", "1")
    assert code == 0, err
    assert "it did not answer within" in err
    check_rows(tmp_path / "pairs.parquet")


def test_the_wait_that_a_busy_provider_asks_for_is_kept(pairs, provider, tmp_path):
    provider.faults = [status(429, {"Retry-After": "1.2"}), status(429, {"retry-after-ms": "300"})]
    assert pairs("--workers", "1")[0] == 0
    first, second, third = provider.times[:3]
    assert second - first >= 1.2
    assert 0.3 <= third - second < 1.2
    check_rows(tmp_path / "pairs.parquet")


def test_waits_are_read_as_seconds_milliseconds_or_a_date():
    assert retry_after({"retry-after": "20"}) == 20
    assert retry_after({"retry-after-ms": "1500", "retry-after": "2"}) == 1.5
    assert retry_after({"retry-after": formatdate(time.time() + 100, usegmt=True)}) == pytest.approx(100, abs=2)
    assert retry_after({"retry-after": formatdate(time.time() - 100, usegmt=True)}) == 0
    for nothing in ({}, {"retry-after": "soon"}, {"retry-after": "nan"}, {"retry-after": "inf"}):
        assert retry_after(nothing) is None


def test_finished_requests_survive_a_failing_provider(pairs, provider, tmp_path):
    provider.faults = [answer] * 2 + [status(502)] * 8
    code, out, err = pairs("--workers", "1")
    assert (code, out) == (1, "")
    assert (
        "gave no vectors in 8 tries. The last failure: it answered with status 502. Finished requests are kept" in err
    )
    assert not (tmp_path / "pairs.parquet").exists()
    before = len(provider.requests)
    assert pairs()[0] == 0
    assert len(provider.requests) - before == 8
    check_rows(tmp_path / "pairs.parquet")


REFUSALS = {
    "the key": (
        status(401, message="Incorrect API key provided: sk-te…89"),
        r"refuses the key \(401\).*OPENAI_API_KEY",
    ),
    "rights": (status(403, message="not in your country"), r"\(403\): not in your country\. Check the key's rights"),
    "the model": (
        status(404, message="no such model"),
        r"has no toy-embedding \(404\).*Check the model and",
    ),
    "a text": (status(400, message="too long"), r"of 4 texts \(400\): too long\. The longest .* text 10 .*'text 10'"),
    "a single text": (status(422), r"refuses text 8 \(422\): no\. It has 6 characters: 'text 8'"),
    "the budget": (status(429, code="insufficient_quota"), r"no credit left \(429\)\. Top it up"),
    "the hour": (status(429, {"Retry-After": "7200"}), "requests a pause of 120 minutes. Finished requests are kept"),
}


REQUESTS = {"a text": 2, "a single text": 6}  # float is tried once, and a 422 halves the request


@pytest.mark.parametrize("refused", REFUSALS)
def test_a_refusal_stops_at_once_with_one_sentence(pairs, provider, tmp_path, refused):
    fault, message = REFUSALS[refused]
    provider.faults = [fault] * REQUESTS.get(refused, 1)
    code, out, err = pairs("--workers", "1")
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith("ea-jax: ")
    assert re.search(message, last), last
    assert "Traceback" not in err
    assert len(provider.requests) == REQUESTS.get(refused, 1)
    assert not (tmp_path / "pairs.parquet").exists()


def test_a_failure_ends_the_waits_of_other_requests(pairs, provider):
    provider.delay = 0.1
    provider.faults = [status(429, {"Retry-After": "600"}), status(401)]
    start = time.monotonic()
    code, _, err = pairs("--workers", "2")
    assert code == 1
    assert "refuses the key" in err
    assert time.monotonic() - start < 20


SPOILT = {
    "too few": (changed(lambda data: data[:-1]), "answered with 3 vectors for 4 texts"),
    "none": (changed(lambda data: []), "answered with 0 vectors for 4 texts"),
    "one twice": (changed(lambda data: [*data[:-1], data[0]]), "indices that are not those of the texts"),
    "no index": (changed(lambda data: [{"embedding": item["embedding"]} for item in data]), "indices that are not"),
    "narrow": (recoded(lambda y: y[:-1]), "text 11: the vector has width 11, but openai/toy-embedding has width 12"),
    "not finite": (recoded(lambda y: y * np.nan), "text 11: the vector is zero or not finite"),
    "zero": (recoded(lambda y: y * 0), "text 11: the vector is zero or not finite"),
    "long": (recoded(lambda y: y * 1.03), "text 11: the vector has length 1.03, but .* have unit length"),
    "no numbers": (changed(lambda data: [item | {"embedding": "?"} for item in data]), "is not a list of numbers"),
    "null": (changed(lambda data: [item | {"embedding": None} for item in data]), "is not a list of numbers"),
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_vectors_of_another_space_are_refused(pairs, provider, tmp_path, spoilt):
    fault, message = SPOILT[spoilt]
    requests = 2 if spoilt in ("none", "null") else 1  # empty answers are requested as float, too
    provider.faults = [fault] * requests
    code, out, err = pairs("--workers", "1")
    assert (code, out) == (1, "")
    assert re.search(message, err.splitlines()[-1]), err
    assert len(provider.requests) == requests
    assert not list(tmp_path.rglob("*.npy"))


def test_shuffled_vectors_are_sorted_by_index(pairs, provider, tmp_path):
    rng = random.Random(0)
    provider.faults = [changed(lambda data: rng.sample(data, len(data))) for _ in range(10)]
    assert pairs()[0] == 0
    check_rows(tmp_path / "pairs.parquet")


def test_plain_numbers_are_accepted(pairs, provider, tmp_path):
    provider.faults = [changed(lambda data: data, plain=True)] * 10
    assert pairs()[0] == 0
    check_rows(tmp_path / "pairs.parquet")


def test_vectors_near_unit_length_are_scaled_to_it(pairs, provider, tmp_path):
    provider.faults = [recoded(lambda y: y * 1.004)]
    assert pairs()[0] == 0
    check_rows(tmp_path / "pairs.parquet")
    (tmp_path / "pairs.parquet").unlink()
    provider.faults = [recoded(lambda y: y * 7)]
    assert pairs("--model", "m", "--workers", "1", target="raw")[0] == 0
    norms = np.linalg.norm(read_pairs([tmp_path / "pairs.parquet"]).y, axis=1)
    assert sorted(np.round(norms)) == [1] * 39 + [7]


def test_a_width_is_requested_if_given(pairs, provider, tmp_path):
    code, _, err = pairs("--dimensions", "8")
    assert code == 1
    assert "dimensions is 8, but openai/toy-embedding has width 12" in err
    assert pairs("--dimensions", "12")[0] == 0
    assert {body["dimensions"] for body in provider.requests} == {12}


def test_other_spaces_need_a_model_and_an_endpoint(pairs, provider, monkeypatch, tmp_path):
    address = os.environ["OPENAI_BASE_URL"]
    for options in ((), ("--base-url", address)):
        assert "toy/raw is not a model of OpenAI: name its endpoint" in pairs(*options, target="raw")[2]
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert "name its endpoint" in pairs("--model", "m", target="raw")[2]
    assert pairs("--model", "m", "--base-url", address, target="raw")[0] == 0
    assert {body["model"] for body in provider.requests} == {"m"}
    check_rows(tmp_path / "pairs.parquet")


def test_the_option_overrides_the_environment(pairs, provider, monkeypatch):
    address = os.environ["OPENAI_BASE_URL"]
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert pairs("--base-url", address)[0] == 0


@pytest.mark.parametrize("address", ["localhost:8080", "ftp://localhost", "http://", "http://[::1"])
def test_an_invalid_address_is_refused(pairs, provider, address):
    code, out, err = pairs("--base-url", address)
    assert (code, out) == (1, "")
    assert "is not an http address" in err
    assert not provider.requests


def test_without_a_key_nothing_is_requested(pairs, provider, monkeypatch):
    for key, message in {
        None: "There is no key: set OPENAI_API_KEY",
        "": "There is no key",
        "sk-\x07": "no key has",
    }.items():
        monkeypatch.delenv("OPENAI_API_KEY") if key is None else monkeypatch.setenv("OPENAI_API_KEY", key)
        code, _, err = pairs()
        assert code == 1
        assert message in err
    assert not provider.requests
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    assert pairs()[0] == 0


def test_a_missing_client_is_one_sentence_with_the_command(pairs, provider, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    code, out, err = pairs()
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].endswith("which is not installed: pip install 'ea_jax[openai]'.")
