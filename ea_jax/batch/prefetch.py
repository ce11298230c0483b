"""Run a stage of work in its own thread, a bounded number of items ahead of the next stage."""

import time
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any

AHEAD = 2  # items between two stages


class Stopped(Exception):
    """Another stage has failed."""


def put(queue: Queue[Any], item: Any, stop: Event) -> None:
    """Add an item, waiting while the queue is full.

    Raises:
        Stopped: Another stage has failed.
    """
    while True:
        if stop.is_set():
            raise Stopped
        try:
            return queue.put(item, timeout=0.1)
        except Full:
            continue


def get(queue: Queue[Any], stop: Event) -> Any:
    """Take an item, waiting while the queue is empty.

    Raises:
        Stopped: Another stage has failed, and the queue is empty.
    """
    while True:
        try:
            return queue.get(timeout=0.1)
        except Empty:
            if stop.is_set():
                raise Stopped from None


def prefetch(items: Iterator[Any], stop: Event) -> Iterator[Any]:
    """Yield the items, which a thread produces a few ahead."""
    queue: Queue[Any] = Queue(AHEAD)

    def produce() -> None:
        try:
            for item in items:
                put(queue, (item, None), stop)
            put(queue, (None, None), stop)
        except Stopped:
            pass
        except BaseException as error:
            with suppress(Stopped):  # the consumer has failed already
                put(queue, (None, error), stop)

    Thread(target=produce, daemon=True).start()
    while True:
        item, error = get(queue, stop)
        if error:
            raise error
        if item is None:
            return
        yield item


def timed(items: Iterator[Any], busy: dict[str, float], stage: str) -> Iterator[Any]:
    """Yield the items, and add the seconds spent producing them to `busy[stage]`."""
    while True:
        start = time.perf_counter()
        item = next(items, None)
        busy[stage] += time.perf_counter() - start
        if item is None:
            return
        yield item
