"""Send a source to a topic at its pace, in batches that are durable before the next one goes out.

Invariants:
- Records go out in the source's order. Their Kafka timestamps are arrival times; event time stays in
  the value, where it is safe from retention.
- What is reported as sent is durable: `Admin.append` has returned for it.
- Where labels are sent apart, every record says its place in the order of both topics (`ORDER_HEADER`), so
  that a service takes them in that very order however they arrive.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from streamlearn.core.records import ORDER_HEADER
from streamlearn.log.port import Admin, Row
from streamlearn.replay.late import Late, Sent
from streamlearn.replay.pacing import Lateness, Pace, Pacer
from streamlearn.replay.sources import Item, Source, limited

BATCH_RECORDS = 2000
BATCH_BYTES = 1 << 20


class Topics(NamedTuple):
    """Topics of events, and of labels when they go apart ("" = they stay in the events)."""

    events: str
    labels: str = ""


class Producer:
    """One replay, until the source ends, the limit is reached, or `stop` is set.

    `progress` is told how many events each durable batch had; `sent` is all records so far, labels
    included, also after an error. `late` takes the labels out, for `topics.labels`.
    """

    def __init__(
        self,
        admin: Admin,
        topics: Topics,
        pace: Pace,
        stop: threading.Event,
        progress: Callable[[int], None],
        late: Late | None = None,
    ) -> None:
        self._admin = admin
        self._topics = topics
        found = admin.topics(topic for topic in topics if topic)
        self._partitions = {topic: found[topic].partitions for topic in topics if topic}
        self._pace = pace
        self._stop = stop
        self._progress = progress
        self._late = late
        self._batches: tuple[list[Row], list[Row]] = ([], [])
        self._due: list[float] = []
        self._batch_bytes = 0
        self._lateness = Lateness()
        self.sent = 0
        self._labels = 0
        self._order_us = 0
        self._bytes = 0
        self._out_of_order = 0
        self._without_time = 0

    def run(self, source: Source, limit: int | None, loop: bool) -> dict[str, int | float]:
        """Send, and report: `sent` (with `labels` among them), `bytes`, `seconds`, and when paced how late
        and how odd it was. `limit` counts events.
        """
        start_s = time.monotonic()
        taken = 0
        while True:
            left = None if limit is None else limit - taken
            in_lap = self._lap(source, left)
            taken += in_lap
            if not loop or not in_lap or taken == limit or self._stop.is_set():
                break
        return self._report(time.monotonic() - start_s)

    def _lap(self, source: Source, limit: int | None) -> int:
        """One pass through the source; how many events it took."""
        pacer = Pacer(self._pace, time.monotonic())
        if self._late is not None:
            taken = self._with_labels(source, limit, self._late, pacer)
        elif self._pace == Pace():
            taken = self._at_once(source, limit)
        else:
            taken = 0
            for item in limited(source.items(), limit):
                if self._stop.is_set():
                    break
                taken += item is not None
                self._take(item, pacer)
        self._flush()
        self._out_of_order += pacer.out_of_order
        self._without_time += pacer.without_time
        return taken

    def _at_once(self, source: Source, limit: int | None) -> int:
        """Without a pace, whole batches of rows go on at once."""
        taken = 0
        for batch in source.batches():
            rows = batch.rows if limit is None else batch.rows[: limit - taken]
            for at in range(0, len(rows), BATCH_RECORDS):
                if self._stop.is_set():
                    return taken
                self._extend(rows[at : at + BATCH_RECORDS], batch.spread)
            taken += len(rows)
            if taken == limit:
                break
            if batch.pause:
                self._flush()
        return taken

    def _extend(self, rows: Sequence[Row], spread: bool) -> None:
        events = self._batches[0]
        events += rows if spread else self._placed(rows, self._topics.events)
        self._batch_bytes += sum([len(row.value or b"") + len(row.key or b"") for row in rows])
        if len(events) >= BATCH_RECORDS or self._batch_bytes >= BATCH_BYTES:
            self._flush()

    def _with_labels(self, source: Source, limit: int | None, late: Late, pacer: Pacer) -> int:
        if late.scans:
            late.scan(limited(source.preview(), limit))
        taken = 0
        for found in late.merge(limited(source.items(), limit)):
            if self._stop.is_set():
                break
            if found is None:
                self._flush()
                continue
            taken += not found.label
            self._take_sent(found, pacer)
        return taken

    def _take(self, item: Item | None, pacer: Pacer) -> None:
        if item is None:
            self._flush()
        else:
            self._take_sent(Sent(item, False), pacer)

    def _take_sent(self, sent: Sent, pacer: Pacer) -> None:
        item = sent.item
        due_s = pacer.due_s(item.time_s)
        if due_s is not None:
            if due_s > time.monotonic():
                self._flush()
                self._wait_until(due_s)
                if self._stop.is_set():  # it is not due yet, and now it never will be
                    return
            self._due.append(due_s)
        batch = self._batches[sent.label]
        row = item.row
        if self._late is not None:
            self._order_us = max(self._order_us + 1, time.time_ns() // 1000)
            row = row._replace(headers=(*row.headers, (ORDER_HEADER, b"%d" % self._order_us)))
        batch += self._placed([row], self._topics[sent.label])
        self._batch_bytes += len(item.row.key or b"") + len(item.row.value or b"")
        if sum(map(len, self._batches)) >= BATCH_RECORDS or self._batch_bytes >= BATCH_BYTES:
            self._flush()

    def _placed(self, rows: Sequence[Row], topic: str) -> Sequence[Row]:
        """The rows, without partitions that the topic does not have."""
        count = self._partitions[topic]
        return [
            row if row.partition is None or row.partition < count else row._replace(partition=None)
            for row in rows
        ]

    def _wait_until(self, due_s: float) -> None:
        while (left_s := due_s - time.monotonic()) > 0 and not self._stop.is_set():
            self._stop.wait(min(left_s, threading.TIMEOUT_MAX))

    def _flush(self) -> None:
        now_s = time.monotonic()
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
