"""Stages of work in threads of their own, each a few items ahead of the next and no more."""

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
    """Add an item once there is room.

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
    """Take an item once there is one.

    Raises:
        Stopped: Another stage has failed, and nothing is left.
    """
    while True:
        try:
            return queue.get(timeout=0.1)
        except Empty:
            if stop.is_set():
                raise Stopped from None


def ahead(items: Iterator[Any], stop: Event) -> Iterator[Any]:
    """Items made in a thread of their own, a few ahead."""
    queue: Queue[Any] = Queue(AHEAD)

    def make() -> None:
        try:
            for item in items:
                put(queue, (item, None), stop)
            put(queue, (None, None), stop)
        except Stopped:
            pass
        except BaseException as error:
            with suppress(Stopped):  # who would have heard of it has failed already
                put(queue, (None, error), stop)

    Thread(target=make, daemon=True).start()
    while True:
        item, error = get(queue, stop)
        if error:
            raise error
        if item is None:
            return
        yield item


def timed(items: Iterator[Any], busy: dict[str, float], stage: str) -> Iterator[Any]:
    """The same items; the seconds that it took to make them are added to a stage."""
    while True:
        start = time.perf_counter()
        item = next(items, None)
        busy[stage] += time.perf_counter() - start
        if item is None:
            return
        yield item
