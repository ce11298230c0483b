"""Texts of several requests share batches, and each request receives its own rows."""

import asyncio
import threading

import pytest

from ea_jax.integrations.server.batcher import Batcher, BatchLimits
from ea_jax.integrations.server.errors import ApiError


class Doubling:
    """Computes each text twice over once `go` is set, and records the batches."""

    def __init__(self):
        self.batches, self.go, self.entered = [], threading.Event(), threading.Event()
        self.go.set()

    def __call__(self, parts):
        self.entered.set()
        assert self.go.wait(10)
        self.batches.append(parts)
        if any(text == "bad" for _, text in parts):
            raise ValueError("bad")
        return [(key, text * 2) for key, text in parts]


def run(scenario, limits=None):
    """Run a scenario with a batcher and its `Doubling`."""

    async def main():
        compute = Doubling()
        batcher = Batcher(compute, limits or BatchLimits())
        batcher.start()
        try:
            return await asyncio.wait_for(scenario(batcher, compute), 20), compute
        finally:
            compute.go.set()
            await batcher.close()

    return asyncio.run(main())


async def busy(batcher, compute):
    """Submit a request whose batch occupies the thread."""
    compute.go.clear()
    first = asyncio.ensure_future(batcher.submit("a", ["first"]))
    while not compute.entered.is_set():
        await asyncio.sleep(0.001)
    return first


def test_each_request_receives_its_own_rows_in_order():
    async def scenario(batcher, _):
        requests = [(f"key {i}", [f"{i}.{j}" for j in range(i % 7 + 1)]) for i in range(100)]
        answers = await asyncio.gather(*(batcher.submit(*request) for request in requests))
        assert answers == [[(key, text * 2) for text in texts] for key, texts in requests]
        assert batcher.waiting == 0

    _, compute = run(scenario)
    assert max(map(len, compute.batches)) <= 32
    assert len(compute.batches) < 40


def test_waiting_requests_share_a_batch():
    async def scenario(batcher, compute):
        first = await busy(batcher, compute)
        others = [asyncio.ensure_future(batcher.submit("b", [str(i)])) for i in range(10)]
        await asyncio.sleep(0)
        compute.go.set()
        await asyncio.gather(first, *others)

    _, compute = run(scenario)
    assert [len(batch) for batch in compute.batches] == [1, 10]


def test_a_short_request_does_not_wait_for_a_long_one():
    async def scenario(batcher, compute):
        first = await busy(batcher, compute)
        long = asyncio.ensure_future(batcher.submit("long", ["x"] * 1000))
        short = asyncio.ensure_future(batcher.submit("short", ["y"]))
        await asyncio.sleep(0)
        compute.go.set()
        await short
        assert not long.done()
        assert len(await long) == 1000
        await first

    run(scenario)


def test_requests_beyond_the_limit_are_refused():
    async def scenario(batcher, compute):
        first = await busy(batcher, compute)
        second = asyncio.ensure_future(batcher.submit("b", ["x"] * 8))
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as caught:
            await batcher.submit("c", ["y"] * 3)
        assert caught.value.status == 429
        assert int(caught.value.headers["Retry-After"]) >= 1
        compute.go.set()
        await asyncio.gather(first, second)
        assert len(await batcher.submit("c", ["y"] * 3)) == 3

    run(scenario, BatchLimits(texts=4, waiting=10))


def test_a_failing_text_fails_its_own_request_alone():
    async def scenario(batcher, compute):
        first = await busy(batcher, compute)
        others = [asyncio.ensure_future(batcher.submit("b", texts)) for texts in (["x"], ["bad"], ["y", "z"])]
        await asyncio.sleep(0)
        compute.go.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    (first, x, bad, yz), _ = run(scenario)
    assert [first, x, yz] == [[("a", "firstfirst")], [("b", "xx")], [("b", "yy"), ("b", "zz")]]
    assert isinstance(bad, ValueError)


def test_a_cancelled_request_leaves_the_queue():
    async def scenario(batcher, compute):
        first = await busy(batcher, compute)
        gone = asyncio.ensure_future(batcher.submit("gone", ["x"] * 100))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        assert batcher.waiting == 0
        compute.go.set()
        await first

    _, compute = run(scenario)
    assert [len(batch) for batch in compute.batches] == [1]


def test_close_answers_accepted_requests():
    async def main():
        compute = Doubling()
        batcher = Batcher(compute)
        batcher.start()
        requests = [asyncio.ensure_future(batcher.submit("a", ["x"] * 50)) for _ in range(5)]
        await asyncio.sleep(0)
        await batcher.close()
        assert [len(await request) for request in requests] == [50] * 5
        with pytest.raises(ApiError):
            await batcher.submit("a", ["x"])

    asyncio.run(main())


def test_a_batch_waits_while_texts_arrive():
    async def scenario(batcher, _):
        async def client(number):
            for turn in range(3):
                await batcher.submit("a", [f"{number}.{turn}"])
                await asyncio.sleep(0.002 * number)  # answered together, but the next requests come one by one

        await asyncio.gather(*(client(number) for number in range(8)))

    _, compute = run(scenario, BatchLimits(seconds=0.1))
    assert sorted(map(len, compute.batches))[-2:] == [8, 8]
