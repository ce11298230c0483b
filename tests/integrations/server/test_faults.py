"""Bad requests, lost clients and a failing provider: other clients receive their own vectors all the same."""

import concurrent.futures
import json
import random
import threading
import time

import httpx2 as httpx
import numpy as np
import pytest

from benchmarks.serve.malformed import attack, check, disconnect, remembered, send_bytes
from ea_jax.integrations.server.app import ServerConfig
from ea_jax.integrations.server.routing import RoutingConfig
from ea_jax.integrations.server.spending import Spending
from tests.integrations.server.conftest import TEXTS, running
from tests.support import openai_server as provider

GOOD = {"model": "toy-target", "input": TEXTS}


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


@pytest.fixture(scope="module")
def embed(toy):
    return remembered(toy)


@pytest.fixture
def stand_in():
    with provider.Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.release.set()
        server.shutdown()


@pytest.fixture
def routed(catalog, stand_in, tmp_path):
    """The address of a server that sends texts below the threshold to the stand-in."""

    def run(threshold, timeout=20.0):
        url = f"http://127.0.0.1:{stand_in.server_address[1]}/v1"
        routing = RoutingConfig(threshold, url, "secret", timeout=timeout)
        spending = Spending(tmp_path / "spending.json", 1.0)
        return running(lambda: catalog, ServerConfig(routing=routing, spending=spending, warm=False))

    return run


def post(address, texts):
    answer = httpx.post(f"{address}/v1/embeddings", json=GOOD | {"input": texts, "quality": True}, timeout=60)
    assert answer.status_code == 200
    data = answer.json()["data"]
    return np.array([item["embedding"] for item in data], np.float32), [item["route"] for item in data]


def test_malformed_requests_do_not_disturb_valid_ones(address, embed):
    valid = [
        {"model": f"toy-target{suffix}", "input": [f"word{i} word{j}" for j in range(i % 5 + 1)]}
        for i, suffix in enumerate(["", "@query", "@store"] * 8)
    ]
    for request in valid:
        for purpose in ("query", "store"):
            embed(request["input"], purpose)
    figures = attack(port_of(address), 200, valid, 4, embed)
    assert figures["problems"] == []
    assert figures["responses"]["malformed 400"] > 50
    assert figures["responses"]["valid 200"] > 20


def test_the_check_detects_wrong_answers(address, embed, toy):
    body = json.dumps(GOOD).encode()
    answer = httpx.post(f"{address}/v1/embeddings", content=body, headers={"content-type": "application/json"})
    right = answer.json()
    assert check(200, answer.content, body, embed) is None
    swapped = right | {"data": [item | {"index": i ^ 1} for i, item in enumerate(right["data"])]}
    for status, content in ((200, swapped), (200, right | {"data": right["data"][1:]}), (400, {"detail": "no"})):
        assert check(status, json.dumps(content).encode(), body, embed)
    assert check(500, answer.content, body, embed)


def test_lost_clients_leave_no_work(address, embed):
    body = json.dumps(GOOD | {"input": TEXTS * 20}).encode()
    disconnect(port_of(address), 40, body)
    assert sum(send_bytes(port_of(address), 40).values()) == 40
    while "ea_jax_waiting_texts 0.0" not in httpx.get(f"{address}/metrics").text:
        time.sleep(0.01)
    assert attack(port_of(address), 4, [GOOD], 2, embed)["problems"] == []


def test_a_hanging_provider_delays_only_texts_for_it(routed, stand_in, toy):
    confidence = toy.confidence(TEXTS)
    low, high = TEXTS[int(confidence.argmin())], TEXTS[int(confidence.argmax())]
    stand_in.release.clear()
    with routed(float(np.sort(confidence)[1])) as address, concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, address, [low])
        while not stand_in.requests:
            time.sleep(0.001)
        y, routes = post(address, [high])
        assert routes == ["local"]
        assert not waiting.done()
        np.testing.assert_allclose(y, toy.embed([high], "query").vectors, atol=1e-6)
        stand_in.release.set()
        y, routes = waiting.result()
        assert routes == ["provider"]
        np.testing.assert_allclose(y[0], provider.vector(low), atol=1e-6)


def test_each_client_of_a_failing_provider_receives_its_own_vectors(routed, stand_in, toy, monkeypatch):
    monkeypatch.setattr("ea_jax.integrations.server.routing.FIRST_PAUSE", 0.0)
    rng = random.Random(0)
    faults = [
        provider.status(429),
        provider.status(401),
        provider.status(503),
        provider.html_page,
        provider.cut,
        provider.hang_up,
    ]
    stand_in.faults += [rng.choice([*faults, provider.answer]) for _ in range(60)]
    requests = [[f"word{i} word{j}" for j in range(i % 4 + 1)] for i in range(60)]
    confidence = [toy.confidence(texts) for texts in requests]
    threshold = float(np.median(np.concatenate(confidence)))
    seen = set()
    with routed(threshold) as address, concurrent.futures.ThreadPoolExecutor(8) as pool:
        for (y, routes), texts, scores in zip(
            pool.map(lambda t: post(address, t), requests), requests, confidence, strict=True
        ):
            seen |= set(routes)
            for row, route, text, score in zip(y, routes, texts, scores, strict=True):
                assert (route == "local") == (score >= threshold)
                native = provider.vector(text) if route == "provider" else toy.embed([text], "query").vectors[0]
                np.testing.assert_allclose(row, native, atol=1e-6)
    assert seen == {"local", "provider", "local-provider-unavailable"}
