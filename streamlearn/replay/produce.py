"""Send a source to a topic at its pace, in batches that are durable before the next one goes out.

Invariants:
- Records go out in the source's order. Their Kafka timestamps are arrival times; event time stays in
  the value, where it is safe from retention.
- What is reported as sent is durable: `Admin.append` has returned for it.
"""

import itertools
import threading
import time
from collections.abc import Callable

from streamlearn.log.port import Admin, Row
from streamlearn.replay.pacing import Lateness, Pace, Pacer
from streamlearn.replay.sources import Item, Source

BATCH_RECORDS = 2000
BATCH_BYTES = 1 << 20


class Producer:
    """One replay to one topic, until the source ends, the limit is reached, or `stop` is set.

    `progress` is told how many records each durable batch had; `sent` is their sum, also after an error.
    """

    def __init__(
        self, admin: Admin, topic: str, pace: Pace, stop: threading.Event, progress: Callable[[int], None]
    ) -> None:
        self._admin = admin
        self._topic = topic
        self._partitions = admin.topics()[topic].partitions
        self._pace = pace
        self._stop = stop
        self._progress = progress
        self._batch: list[Row] = []
        self._due: list[float] = []
        self._batch_bytes = 0
        self._lateness = Lateness()
        self.sent = 0
        self._bytes = 0
        self._out_of_order = 0
        self._without_time = 0

    def run(self, source: Source, limit: int | None, loop: bool) -> dict[str, int | float]:
        """Send, and report: `sent`, `bytes`, `seconds`, and when paced how late and how odd it was."""
        start_s = time.monotonic()
        taken = 0
        for lap in itertools.count():
            pacer = Pacer(self._pace, time.monotonic())
            before = taken
            for item in source.items(lap):
                if self._stop.is_set() or (limit is not None and taken >= limit):
                    break
                taken += item is not None
                self._take(item, pacer)
            self._flush()
            self._out_of_order += pacer.out_of_order
            self._without_time += pacer.without_time
            done = not loop or taken == before or (limit is not None and taken >= limit)
            if done or self._stop.is_set():
                break
        return self._report(time.monotonic() - start_s)

    def _take(self, item: Item | None, pacer: Pacer) -> None:
        if item is None:
            self._flush()
            return
        due_s = pacer.due_s(item.time_s)
        if due_s is not None:
            if due_s > time.monotonic():
                self._flush()
                self._wait_until(due_s)
                if self._stop.is_set():  # it is not due yet, and now it never will be
                    return
            self._due.append(due_s)
        row = item.row
        if row.partition is not None and row.partition >= self._partitions:
            row = row._replace(partition=None)
        self._batch.append(row)
        self._batch_bytes += len(row.key or b"") + len(row.value or b"")
        if len(self._batch) >= BATCH_RECORDS or self._batch_bytes >= BATCH_BYTES:
            self._flush()

    def _wait_until(self, due_s: float) -> None:
        while (left_s := due_s - time.monotonic()) > 0 and not self._stop.is_set():
            self._stop.wait(min(left_s, threading.TIMEOUT_MAX))

    def _flush(self) -> None:
        if not self._batch:
            return
        now_s = time.monotonic()
        for due_s in self._due:
            self._lateness.add(now_s - due_s)
        self._admin.append(self._topic, self._batch)
        self.sent += len(self._batch)
        self._bytes += self._batch_bytes
        self._progress(len(self._batch))
        self._batch, self._due, self._batch_bytes = [], [], 0

    def _report(self, seconds: float) -> dict[str, int | float]:
        report: dict[str, int | float] = {
            "sent": self.sent,
            "bytes": self._bytes,
            "seconds": round(seconds, 3),
            "per_s": round(self.sent / seconds, 1) if seconds else 0.0,
        }
        if self._pace.speed is not None:
            report |= {"out_of_order": self._out_of_order, "without_time": self._without_time}
        return report | self._lateness.summary()
