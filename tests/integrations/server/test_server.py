"""The endpoint over HTTP, with toy models."""

import base64
import concurrent.futures
import json
import socket
import threading
import time

import httpx2 as httpx
import numpy as np
import pytest

from ea_jax.integrations.server.app import ServerConfig
from ea_jax.integrations.server.batcher import BatchLimits
from ea_jax.integrations.server.engine import READY_TOKENS, Engine
from ea_jax.integrations.server.requests import MAX_BODY
from tests.integrations.server.conftest import TEXTS, running

GOOD = {"model": "toy-target", "input": TEXTS}


def post(address, body=None, **options):
    return httpx.post(f"{address}/v1/embeddings", json=body, timeout=30, **options)


def vectors(answer) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [item["index"] for item in data] == list(range(len(data)))
    return np.array([item["embedding"] for item in data], np.float32)


def test_a_response_has_openais_form(address, toy):
    answer = post(address, GOOD | {"user": "someone"})
    np.testing.assert_array_equal(vectors(answer), toy.embed(TEXTS, "query").vectors)
    content = answer.json()
    assert {key: content[key] for key in ("object", "model")} == {"object": "list", "model": "toy-target"}
    assert set(content["data"][0]) == {"object", "index", "embedding"}
    assert content["usage"] == {"prompt_tokens": 13, "total_tokens": 13}


@pytest.mark.parametrize("purpose", ["query", "store"])
def test_the_models_name_chooses_the_purpose(address, toy, purpose):
    y = vectors(post(address, GOOD | {"model": f"toy/target@{purpose}"}))
    np.testing.assert_array_equal(y, toy.embed(TEXTS, purpose).vectors)


def test_base64_and_float_vectors_are_equal(address):
    plain = vectors(post(address, GOOD))
    coded = post(address, GOOD | {"encoding_format": "base64"}).json()["data"]
    rows = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in coded]
    np.testing.assert_array_equal(np.stack(rows), plain)


def test_dimensions_shorten_to_unit_length(address):
    whole, short = vectors(post(address, GOOD)), vectors(post(address, GOOD | {"dimensions": 5}))
    np.testing.assert_allclose(short, whole[:, :5] / np.linalg.norm(whole[:, :5], axis=1, keepdims=True), atol=1e-6)


def test_headers_and_items_contain_the_confidence(address, toy):
    answer = post(address, GOOD | {"quality": True})
    expected = toy.confidence(TEXTS)
    items = answer.json()["data"]
    np.testing.assert_allclose([item["confidence"] for item in items], expected, atol=1e-5)
    np.testing.assert_allclose(
        [float(c) for c in answer.headers["x-ea-jax-confidence"].split(",")], expected, atol=1e-4
    )
    assert float(answer.headers["x-ea-jax-confidence-min"]) == pytest.approx(expected.min(), abs=1e-4)
    assert {item["route"] for item in items} == {"local"}


def test_models_are_listed(address):
    listed = httpx.get(f"{address}/v1/models").json()
    names = [model["id"] for model in listed["data"]]
    assert names == ["toy-target", "toy-target@query", "toy-target@store"]
    assert httpx.get(f"{address}/v1/models/toy/target@store").json()["id"] == "toy/target@store"
    assert httpx.get(f"{address}/v1/models/gpt").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/embeddings", 405),
        ("POST", "/v1/chat/completions", 404),
        ("POST", "/v1/embeddings/", 404),
        ("GET", "/", 404),
    ],
)
def test_other_paths_are_errors_in_openais_form(address, method, path, status):
    answer = httpx.request(method, address + path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_requests_without_the_key_are_refused(catalog):
    with running(lambda: catalog, ServerConfig(api_key="right", warm=False)) as address:
        right = {"Authorization": "Bearer right"}
        assert post(address, GOOD, headers=right).status_code == 200
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic right"},
            {"Authorization": "ü"},
        ):
            answer = post(address, GOOD, headers={k: v.encode() for k, v in headers.items()})
            assert answer.status_code == 401
            assert "right" not in answer.text
        assert httpx.get(f"{address}/v1/models").status_code == 401
        assert httpx.get(f"{address}/healthz").status_code == httpx.get(f"{address}/metrics").status_code == 200


def test_readyz_waits_for_the_models(catalog):
    go = threading.Event()

    def load():
        assert go.wait(20)
        return catalog

    with running(load, ready=False) as address:
        while True:
            try:
                assert httpx.get(f"{address}/healthz").status_code == 200
                break
            except httpx.ConnectError:
                time.sleep(0.01)
        for answer in (httpx.get(f"{address}/readyz"), post(address, GOOD), httpx.get(f"{address}/v1/models")):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
        go.set()
        while httpx.get(f"{address}/readyz").status_code != 200:
            time.sleep(0.01)
        assert post(address, GOOD).status_code == 200


def test_long_texts_are_compiled_after_readiness(catalog, toy):
    engine = Engine()
    toy.encoder.warmed.clear()
    engine.prepare(catalog, 2)
    before = list(toy.encoder.warmed)
    engine.prepare_more(catalog)
    lengths = [length for size, *tokens in toy.encoder.warmed if size == 1 for length in tokens]
    assert lengths[: 2 * len(before)] == [1, 64, 65, READY_TOKENS]
    assert lengths[::2] == [1, *(length + 1 for length in lengths[1:-1:2])]


def test_the_engine_compiles_all_sizes(catalog, toy):
    engine = Engine()
    engine.prepare(catalog, 8)
    engine.prepare_more(catalog)
    assert engine.size == 16
    texts = [f"word{i} " * (i % 7 + 1) for i in range(23)]
    rows = engine.compute([((catalog.models[0], "query"), text) for text in texts])
    expected = toy.embed(texts, "query")
    np.testing.assert_allclose(np.stack([row.vector for row in rows]), expected.vectors, atol=1e-6)
    assert [row.tokens for row in rows] == expected.tokens


def test_a_large_body_is_refused(address):
    body = json.dumps(GOOD | {"input": ["a" * 1000] * 10_400}).encode()
    assert len(body) > MAX_BODY
    answer = httpx.post(
        f"{address}/v1/embeddings", content=body, headers={"content-type": "application/json"}, timeout=30
    )
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"


def test_a_disconnected_client_does_not_affect_others(address, toy):
    host, port = address.removeprefix("http://").split(":")
    body = json.dumps(GOOD).encode()
    fields = ["Host: a", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    head = "\r\n".join(["POST /v1/embeddings HTTP/1.1", *fields, "", ""])
    for sent in (body[:20], body):  # disconnected within the body, and before the response
        with socket.create_connection((host, int(port))) as client:
            client.sendall(head.encode() + sent)
    np.testing.assert_array_equal(vectors(post(address, GOOD)), toy.embed(TEXTS, "query").vectors)


def test_an_unexpected_error_fails_one_request_only(address):
    answer = post(address, GOOD | {"input": "please fail now"})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert post(address, GOOD).status_code == 200


def test_concurrent_clients_receive_their_own_vectors(address, toy):
    texts = [[f"word{i} word{j}" for j in range(i % 5 + 1)] for i in range(120)]
    expected = [toy.embed(part, "store" if i % 2 else "query").vectors for i, part in enumerate(texts)]
    with httpx.Client(base_url=address, timeout=30) as client, concurrent.futures.ThreadPoolExecutor(16) as pool:

        def request(i):
            name = "toy-target@store" if i % 2 else "toy-target@query"
            return vectors(client.post("/v1/embeddings", json={"model": name, "input": texts[i]}))

        for y, rows in zip(pool.map(request, range(120)), expected, strict=True):
            np.testing.assert_allclose(y, rows, atol=1e-6)  # the order of sums depends on the batch


def test_a_full_queue_responds_with_retry_after(catalog):
    limits = BatchLimits(texts=1, waiting=3)
    with running(lambda: catalog, ServerConfig(batches=limits, warm=False)) as address:
        answer = post(address, GOOD)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert post(address, GOOD | {"input": TEXTS[:3]}).status_code == 200


def test_shutdown_answers_accepted_requests(catalog, toy):
    texts = [f"word{i}" for i in range(500)]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with running(lambda: catalog, ServerConfig(batches=BatchLimits(texts=4), warm=False)) as address:
            post(address, GOOD)
            answer = pool.submit(post, address, GOOD | {"input": texts})
            while "ea_jax_waiting_texts 0.0" in httpx.get(f"{address}/metrics").text and not answer.done():
                pass
        np.testing.assert_allclose(vectors(answer.result()), toy.embed(texts, "query").vectors, atol=1e-6)


def test_metrics_show_confidence_and_drift(catalog):
    with running(lambda: catalog) as address:
        post(address, GOOD | {"input": [f"word{i} again" for i in range(200)]})
        text = httpx.get(f"{address}/metrics").text
    assert 'ea_jax_requests_total{model="toy-target",status="200"} 1.0' in text
    assert 'ea_jax_confidence_count{model="toy-target"} 200.0' in text
    assert 'ea_jax_population_stability_index{model="toy-target",score="novelty"}' in text
    assert 'ea_jax_texts_total{model="toy-target",route="local"} 200.0' in text
