"""Send a stream of the past to a topic at its pace, in batches that are durable before the next one goes out.

Invariants:
- Records go out in the source's order. Their Kafka timestamps are arrival times; event time stays in
  the value, where it is safe from retention.
- What is reported as sent is durable: `Admin.append` has returned for it.
- Where labels are sent apart, every record says its place in the order of both topics (`ORDER_HEADER`), so
  that a service takes them in that very order however they arrive.
- Every deadline is counted from one anchor, the first record, so that lateness never adds up. A record that
  is older than the one before it is due at once, and counted.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from streamlearn.core.labels.stats import Durations
from streamlearn.core.records import ORDER_HEADER
from streamlearn.env import Env, Flag
from streamlearn.history.label_delay import ScheduledRecord
from streamlearn.log.port import Admin, ProducerRecord

BATCH_RECORDS = 2000
BATCH_BYTES = 1 << 20


class Pace(NamedTuple):
    """A replay's speed: `rate` records a second, or `speed` times event time; neither: as fast as it goes."""

    speed: float | None = None
    rate: float | None = None


class Pacer:
    """Deadlines of one pass through a source, by the clock that `anchor_s` was read from."""

    def __init__(self, pace: Pace, anchor_s: float) -> None:
        self._pace = pace
        self._anchor_s = anchor_s
        self._first_s: float | None = None
        self._latest_s = -math.inf
        self._count = 0
        self.out_of_order = 0
        self.without_time = 0

    def due_s(self, time_s: float | None) -> float | None:
        """When the next record, with event time `time_s`, is due; None = at once."""
        self._count += 1
        if self._pace.rate:
            return self._anchor_s + (self._count - 1) / self._pace.rate
        if self._pace.speed is None:
            return None
        if time_s is None:
            self.without_time += 1
            return None
        if self._first_s is None:
            self._first_s = time_s
        if time_s < self._latest_s:
            self.out_of_order += 1
            return None
        self._latest_s = time_s
        return self._anchor_s + (time_s - self._first_s) / self._pace.speed


class Lateness:
    """Lateness of paced records, with quantiles to within 5 %."""

    def __init__(self) -> None:
        self._late = Durations(steps_per_octave=16)

    def add(self, late_s: float) -> None:
        """Count a record that went out `late_s` after its deadline."""
        self._late.add(max(0.0, late_s * 1000))

    def percentile_ms(self, share: float) -> float:
        """The lateness that `share` (0 to 1) of the records did not exceed; 0 without records."""
        return self._late.quantile_ms(share) or 0.0

    def summary(self) -> dict[str, float]:
        """p50, p99 and the maximum, in milliseconds; empty when nothing had a deadline."""
        if not self._late.buckets:
            return {}
        return {
            "late_p50_ms": round(self.percentile_ms(0.5), 1),
            "late_p99_ms": round(self.percentile_ms(0.99), 1),
            "late_max_ms": round(self._late.max_ms, 1),
        }


class SendTopics(NamedTuple):
    """Topics of events, and of labels when they go apart ("" = they stay in the events)."""

    events: str
    labels: str = ""


class Sender:
    """One replay, until the stream ends, the limit is reached, or `stop` is set.

    `progress` is told how many events each durable batch had; `sent` is all records so far, labels
    included, also after an error.
    """

    def __init__(
        self,
        env: Env,
        admin: Admin,
        topics: SendTopics,
        pace: Pace,
        stop: Flag,
        progress: Callable[[int], None],
    ) -> None:
        self._env = env
        self._admin = admin
        self._topics = topics
        existing = admin.topics(topic for topic in topics if topic)
        self._partitions = {topic: existing[topic].partitions for topic in topics if topic}
        self._pace = pace
        self._stop = stop
        self._progress = progress
        self._batches: tuple[list[ProducerRecord], list[ProducerRecord]] = ([], [])
        self._due: list[float] = []
        self._batch_bytes = 0
        self._lateness = Lateness()
        self.sent = 0
        self._labels = 0
        self._order_us = 0
        self._bytes = 0
        self._out_of_order = 0
        self._without_time = 0

    def run(
        self, read: Callable[[int | None], Iterator[ScheduledRecord | None]], limit: int | None, loop: bool
    ) -> dict[str, int | float]:
        """Send, and report: `sent` (with `labels` among them), `bytes`, `seconds`, and when paced how late
        and how odd it was. `read`: begins a pass of at most so many events. `limit` counts events.
        """
        start_s = self._env.monotonic()
        events = 0
        while True:
            in_pass = self._pass(read(None if limit is None else limit - events))
            events += in_pass
            if not loop or not in_pass or events == limit or self._stop.is_set():
                break
        return self._report(self._env.monotonic() - start_s)

    def _pass(self, records: Iterator[ScheduledRecord | None]) -> int:
        """One pass through the stream; the number of its events."""
        pacer = Pacer(self._pace, self._env.monotonic())
        events = 0
        for scheduled in records:
            if self._stop.is_set():
                break
            if scheduled is None:
                self._flush()
                continue
            events += not scheduled.is_label
            self._add(scheduled, pacer)
        self._flush()
        self._out_of_order += pacer.out_of_order
        self._without_time += pacer.without_time
        return events

    def _add(self, scheduled: ScheduledRecord, pacer: Pacer) -> None:
        """Add a record to its batch when it is due."""
        row = scheduled.record.row
        due_s = pacer.due_s(scheduled.record.time_s)
        if due_s is not None:
            if due_s > self._env.monotonic():
                self._flush()
                self._wait_until(due_s)
                if self._stop.is_set():  # it is not due yet, and now it never will be
                    return
            self._due.append(due_s)
        if self._topics.labels:
            self._order_us = max(self._order_us + 1, int(self._env.now() * 1e6))
            row = row._replace(headers=(*row.headers, (ORDER_HEADER, b"%d" % self._order_us)))
        if row.partition is not None and row.partition >= self._partitions[self._topics[scheduled.is_label]]:
            row = row._replace(partition=None)
        self._append(row, self._batches[scheduled.is_label])

    def _append(self, row: ProducerRecord, batch: list[ProducerRecord]) -> None:
        batch.append(row)
        self._batch_bytes += len(row.key or b"") + len(row.value or b"")
        if sum(map(len, self._batches)) >= BATCH_RECORDS or self._batch_bytes >= BATCH_BYTES:
            self._flush()

    def _wait_until(self, due_s: float) -> None:
        while (left_s := due_s - self._env.monotonic()) > 0 and not self._stop.is_set():
            self._stop.wait(left_s)

    def _flush(self) -> None:
        now_s = self._env.monotonic()
        for due_s in self._due:
            self._lateness.add(now_s - due_s)
        for topic, batch in zip(self._topics, self._batches, strict=True):
            if batch:
                self._admin.append(topic, batch)
                self.sent += len(batch)
        events, labels = map(len, self._batches)
        self._labels += labels
        self._bytes += self._batch_bytes
        if events:
            self._progress(events)
        self._batches, self._due, self._batch_bytes = ([], []), [], 0

    def _report(self, seconds: float) -> dict[str, int | float]:
        report: dict[str, int | float] = {"sent": self.sent}
        if self._topics.labels:
            report["labels"] = self._labels
        report |= {
            "bytes": self._bytes,
            "seconds": round(seconds, 3),
            "per_s": round(self.sent / seconds, 1) if seconds else 0.0,
        }
        if self._pace.speed is not None:
            report |= {"out_of_order": self._out_of_order, "without_time": self._without_time}
        return report | self._lateness.summary()
