"""Texts of low confidence are sent to the provider, and local vectors are served when it fails."""

import json
import time

import httpx2 as httpx
import numpy as np
import pytest

from ea_jax.errors import BadInput
from ea_jax.integrations.server.app import ServerConfig
from ea_jax.integrations.server.engine import CONFIDENCE, Row
from ea_jax.integrations.server.routing import (
    ProviderError,
    RoutingConfig,
    low_confidence,
    merge,
    vectors_of_answer,
)
from ea_jax.integrations.server.spending import Spending
from tests.integrations.server.conftest import TEXTS, running
from tests.support import openai_server as provider


def row(confidence: float) -> Row:
    scores = np.zeros(8, np.float32)
    scores[CONFIDENCE] = confidence
    return Row(np.full(12, confidence, np.float32), scores, 3)


class Item:
    def __init__(self, index, embedding):
        self.index, self.embedding = index, embedding


@pytest.fixture
def server():
    with provider.Server() as one:
        import threading

        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield one
        one.shutdown()


@pytest.fixture
def spending(tmp_path):
    return Spending(tmp_path / "spending.json", 1.0)


def config(server, spending, **changes) -> ServerConfig:
    fields = {"min_confidence": 2.0, "price": 0.0, "timeout": 0.4, "api_key": "secret"} | changes
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    return ServerConfig(routing=RoutingConfig(base_url=url, **fields), spending=spending, warm=False)


def request(address, texts=TEXTS, **fields):
    body = {"model": "toy-target", "input": texts, "quality": True, **fields}
    answer = httpx.post(f"{address}/v1/embeddings", json=body, timeout=20)
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    return np.array([item["embedding"] for item in data], np.float32), [item["route"] for item in data], answer


def test_low_confidence_includes_nan():
    assert low_confidence([row(0.9), row(0.2), row(float("nan")), row(0.5)], 0.5) == [1, 2]


def test_vectors_are_merged_in_order():
    vectors, routes = merge([row(0.9), row(0.1), row(0.2)], [1, 2], np.ones((2, 12), np.float32))
    assert routes == ["local", "provider", "provider"]
    np.testing.assert_allclose(vectors[:, 0], [0.9, 1, 1])


def test_vectors_are_sorted_by_index():
    y = np.eye(3, 12, dtype=np.float32)
    items = [Item(i, y[i].tolist()) for i in (2, 0, 1)]
    np.testing.assert_array_equal(vectors_of_answer(items, 3, 12, True), y)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        [Item(0, [1.0] + [0] * 11)] * 2,
        [Item(0, [1.0]), Item(1, [1.0])],
        [Item(0, [0.0] * 12), Item(1, [1.0] + [0] * 11)],
        [Item(0, [float("nan")] * 12), Item(1, [1.0] + [0] * 11)],
        [Item(0, [2.0] + [0] * 11), Item(1, [1.0] + [0] * 11)],
        [Item(0, "no base64"), Item(1, [1.0] + [0] * 11)],
        [Item(0, None), Item(1, None)],
        [Item("0", [1.0] + [0] * 11), Item(1, [1.0] + [0] * 11)],
    ],
)
def test_malformed_responses_are_refused(data):
    with pytest.raises(ProviderError):
        vectors_of_answer(data, 2, 12, True)


def test_texts_below_the_threshold_receive_native_vectors(catalog, toy, server, spending):
    confidence = toy.confidence(TEXTS)
    threshold = float(np.sort(confidence)[2])
    with running(lambda: catalog, config(server, spending, min_confidence=threshold)) as address:
        y, routes, answer = request(address)
        short, _, _ = request(address, dimensions=4)
    local = toy.embed(TEXTS, "query").vectors
    for i, text in enumerate(TEXTS):
        is_local = confidence[i] >= threshold
        assert routes[i] == ("local" if is_local else "provider")
        np.testing.assert_allclose(y[i], local[i] if is_local else provider.vector(text), atol=1e-6)
    np.testing.assert_allclose(short, y[:, :4] / np.linalg.norm(y[:, :4], axis=1, keepdims=True), atol=1e-6)
    assert sorted(server.requests[0]["input"]) == sorted(
        t for t, r in zip(TEXTS, routes, strict=True) if r == "provider"
    )
    assert server.requests[0]["model"] == "toy-target"
    assert server.keys == {"Bearer secret"}
    assert answer.headers["x-ea-jax-route"] == ",".join(routes)
    assert "provider=2" in answer.headers["x-ea-jax-routes"]


FAULTS = {
    "slow": (provider.delayed, "timeout"),
    "busy": (provider.status(429, {"Retry-After": "7"}), "busy"),
    "wrong key": (provider.status(401), "key"),
    "down for repair": (provider.status(503), "status"),
    "page": (provider.html_page, "malformed"),
    "cut": (provider.cut, "connection"),
    "hang up": (provider.hang_up, "connection"),
    "too few": (provider.changed(lambda data: data[:-1]), "malformed"),
    "no list": (provider.changed(lambda data: {"a": 1}), "malformed"),
    "nan": (provider.recoded(lambda y: y * np.nan), "malformed"),
    "narrow": (provider.recoded(lambda y: y[:5]), "malformed"),
}


@pytest.fixture(scope="module")
def faulty(catalog, tmp_path_factory):
    """A server with a provider to which tests add faults."""
    with provider.Server() as one:
        import threading

        threading.Thread(target=one.serve_forever, daemon=True).start()
        spending = Spending(tmp_path_factory.mktemp("spending") / "spending.json", 1.0)
        with running(lambda: catalog, config(one, spending)) as address:
            yield one, address
        one.shutdown()


@pytest.mark.parametrize("fault", FAULTS)
def test_local_vectors_replace_those_of_a_failing_provider(faulty, toy, fault, monkeypatch):
    monkeypatch.setattr("ea_jax.integrations.server.routing.time.monotonic", lambda: next(CLOCK))
    server, address = faulty
    response, reason = FAULTS[fault]
    server.faults.append(response)
    before = _failures(address, reason)
    y, routes, _ = request(address)
    assert routes == ["local-provider-unavailable"] * len(TEXTS)
    np.testing.assert_allclose(y, toy.embed(TEXTS, "query").vectors, atol=1e-6)
    assert _failures(address, reason) == before + 1
    y, routes, _ = request(address)
    assert routes == ["provider"] * len(TEXTS)


CLOCK = iter(range(0, 10**9, 10_000))  # seconds; every pause is over at the next call


def _failures(address: str, reason: str) -> float:
    text = httpx.get(f"{address}/metrics").text
    lines = [
        line for line in text.splitlines() if line.startswith(f'ea_jax_provider_failures_total{{reason="{reason}"}}')
    ]
    return float(lines[0].split()[-1]) if lines else 0.0


def test_retry_after_pauses_requests_to_the_provider(catalog, server, spending):
    server.faults.append(provider.status(429, {"Retry-After": "30"}))
    with running(lambda: catalog, config(server, spending)) as address:
        start = time.monotonic()
        for _ in range(3):
            assert set(request(address)[1]) == {"local-provider-unavailable"}
        assert time.monotonic() - start < 10
    assert len(server.requests) == 1


def test_an_unreachable_provider_is_replaced_by_local_vectors(catalog, server, spending):
    gone = config(server, spending)
    server.shutdown()
    server.server_close()
    with running(lambda: catalog, gone) as address:
        assert set(request(address)[1]) == {"local-provider-unavailable"}


def test_nothing_is_sent_beyond_the_monthly_limit(catalog, server, tmp_path):
    spending = Spending(tmp_path / "spending.json", 15e-6)
    with running(lambda: catalog, config(server, spending, price=1.0)) as address:
        _, first, _ = request(address, ["aa aa"])  # the provider counts 3 tokens
        _, second, _ = request(address, ["bb bb bb bb bb"])  # up to 14 tokens, but 12 are left
        assert (first, second) == (["provider"], ["local-spend-limit"])
        assert "ea_jax_provider_spent_usd 3e-06" in httpx.get(f"{address}/metrics").text
    assert server.texts == ["aa aa"]
    assert spending.spent() == pytest.approx(3e-6)


def test_spending_is_monthly_and_survives_a_restart(tmp_path):
    month = ["2026-11"]
    file = tmp_path / "spending.json"
    spending = Spending(file, 1.0, lambda: month[0])
    assert spending.reserve(0.9)
    assert not spending.reserve(0.2)
    spending.settle(0.9, 0.8)
    again = Spending(file, 1.0, lambda: month[0])
    assert not again.reserve(0.3)
    month[0] = "2026-12"
    assert again.reserve(0.3)
    again.settle(0.3, 0.3)
    assert json.loads(file.read_text()) == {"2026-11": 0.8, "2026-12": 0.3}
    file.write_text("[]")
    with pytest.raises(BadInput, match="not a record of spending"):
        Spending(file, 1.0)
