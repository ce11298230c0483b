"""Dynamic batching: one thread computes the texts of concurrent requests together."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ea_jax.integrations.server.errors import queue_full

Part = tuple[Hashable, str]
Compute = Callable[[Sequence[Part]], Sequence[Any]]


@dataclass(frozen=True)
class BatchLimits:
    """Limits of batches and of the queue.

    Attributes:
        texts: Largest number of texts in a batch.
        waiting: Largest number of waiting texts. Further requests are refused.
        seconds: A batch waits until no text arrives for this time, if the batch before it had texts of several
            requests. A single client never waits.
    """

    texts: int = 32
    waiting: int = 4096
    seconds: float = 0.003


@dataclass(eq=False)
class _Job:
    """A request in the queue: its texts, the number of them that batches took, and the rows computed so far."""

    key: Hashable
    texts: Sequence[str]
    future: asyncio.Future
    rows: list[Any] = field(default_factory=list)
    position: int = 0


class Batcher:
    """A queue of requests, whose texts are computed in batches that are shared fairly among the requests.

    Attributes:
        waiting: Number of texts that no batch has taken yet.
    """

    def __init__(
        self, compute: Compute, limits: BatchLimits | None = None, observe: Callable[[int, float], None] | None = None
    ) -> None:
        """Create a queue. Call `start` in a running event loop before the first `submit`.

        Args:
            compute: Function that computes one row for each pair of key and text. All calls are in one thread.
            limits: Limits of batches and of the queue.
            observe: Function that is called after each batch with its number of texts and its seconds.
        """
        self.limits = limits or BatchLimits()
        self.waiting = 0
        self._compute, self._observe = compute, observe
        self._jobs: deque[_Job] = deque()
        self._arrived, self._rate, self._crowded = asyncio.Event(), 0.0, False
        self._thread = ThreadPoolExecutor(1, "ea_jax-batch")
        self._task: asyncio.Task | None = None
        self._closing = False

    def start(self) -> None:
        """Start to process batches in the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in the thread that computes the batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def submit(self, key: Hashable, texts: Sequence[str]) -> list[Any]:
        """Compute one row for each text, in order. Cancelling the call removes its texts from the queue.

        Raises:
            ApiError: 429 if the queue is full.
        """
        if self._closing or self.waiting + len(texts) > self.limits.waiting:
            raise queue_full(self.retry_after())
        job = _Job(key, texts, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self.waiting += len(texts)
        self._arrived.set()
        try:
            return await job.future
        finally:
            if job in self._jobs:  # cancelled before a batch took its last text
                self._jobs.remove(job)
                self.waiting -= len(texts) - job.position

    def retry_after(self) -> int:
        """Estimate the seconds until the queue is empty, from 1 to 60."""
        return max(1, min(60, math.ceil(self.waiting / self._rate))) if self._rate else 1

    async def close(self) -> None:
        """Refuse new requests, answer the accepted ones, and stop."""
        self._closing = True
        while self._jobs:
            await asyncio.sleep(0.005)
        if self._task is not None:
            self._arrived.set()
            await self._task
        self._thread.shutdown()

    async def _work(self) -> None:
        while True:
            while not self._jobs:
                if self._closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            if self._crowded:
                await self._wait_for_more()
            batch = self._take()
            if batch:
                await self._run_batch(batch)

    async def _wait_for_more(self) -> None:
        """Wait while texts arrive: clients that were answered together share the next batch too."""
        before = -1
        while before < self.waiting < self.limits.texts:
            before = self.waiting
            await asyncio.sleep(self.limits.seconds)

    def _take(self) -> list[tuple[_Job, Sequence[str]]]:
        """Take the next batch. Every request contributes texts, so that short ones do not wait for long ones."""
        batch, room, jobs = [], self.limits.texts, len(self._jobs)
        for left in range(min(jobs, room), 0, -1):
            job = self._jobs.popleft()
            count = min(max(1, room // left), len(job.texts) - job.position)
            batch.append((job, job.texts[job.position : job.position + count]))
            job.position += count
            room -= count
            self.waiting -= count
            if job.position < len(job.texts):
                self._jobs.append(job)
        self._crowded = len(batch) > 1
        return batch

    async def _run_batch(self, batch: list[tuple[_Job, Sequence[str]]]) -> None:
        start = time.perf_counter()
        parts = [(job.key, text) for job, texts in batch for text in texts]
        try:
            rows = await self.run(self._compute, parts)
        except Exception as error:
            await self._run_each(batch, error)
            return
        seconds = time.perf_counter() - start
        self._rate = 0.8 * self._rate + 0.2 * len(parts) / seconds if self._rate else len(parts) / seconds
        if self._observe:
            self._observe(len(parts), seconds)
        position = 0
        for job, texts in batch:
            self._finish(job, rows[position : position + len(texts)])
            position += len(texts)

    async def _run_each(self, batch: list[tuple[_Job, Sequence[str]]], error: Exception) -> None:
        """Compute each request of a failed batch alone, so that only requests with failing texts fail."""
        for job, texts in batch:
            try:
                if len(batch) == 1:
                    raise error
                self._finish(job, await self.run(self._compute, [(job.key, text) for text in texts]))
            except Exception as job_error:
                if not job.future.done():
                    job.future.set_exception(job_error)
                if job in self._jobs:
                    self._jobs.remove(job)
                    self.waiting -= len(job.texts) - job.position

    def _finish(self, job: _Job, rows: Sequence[Any]) -> None:
        job.rows.extend(rows)
        if len(job.rows) == len(job.texts) and not job.future.done():
            job.future.set_result(job.rows)
