"""Reading committed records from Kafka at the positions the caller asks for.

Invariants:
- A partition's records come in offset order and none is skipped: what the client has fetched and the caller
  did not take (its limit, a partition it did not ask for) waits here or in the client.
- The caller's position is the only truth. Each partition has a cursor: from `floor` to the next record there
  are no records (markers, aborted or compacted data), so a position in that gap needs no seek.
- There is no group, no automatic offset and no commit. A consumer that raised is closed, and a new one made.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from streamlearn.core.records import Positions, Range, Record, TopicPartition
from streamlearn.env import Env
from streamlearn.errors import Gone, Stop, Unreachable
from streamlearn.log.kafka.client import CONNECT_S, Client, ClientError, Code, Consumer
from streamlearn.log.kafka.errors import ask, explained, is_denied
from streamlearn.log.port import FetchResult

_NO_LIMIT = 1 << 62
_BATCH = 2000
_AGAIN_S = 2.0
"""A client that is made anew during an outage must not keep the loop from its heartbeat for long."""


class _Cursor:
    """One partition's place: `floor` as above, and `ahead`, fetched but not handed out."""

    __slots__ = ("ahead", "floor")

    def __init__(self) -> None:
        self.floor = -1
        self.ahead: list[Record] = []

    def take(self, count: int) -> list[Record]:
        """Hand out the next `count` records, one at least."""
        records = self.ahead[:count]
        del self.ahead[:count]
        self.floor = records[-1].offset + 1
        return records


class RecordReader:
    """A consumer by position. Not safe for two threads.

    `patient`: a broker has answered this process before, so that polls give nothing while none does.
    """

    def __init__(self, env: Env, client: Client, *, wait_ms: int = 500, patient: bool = False) -> None:
        self._env = env
        self._client = client
        self._wait_ms = wait_ms
        self._consumer: Consumer | None = None
        self._patient = patient
        self._cursors: dict[TopicPartition, _Cursor] = {}
        self._active: frozenset[TopicPartition] = frozenset()
        self._starts: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}

    def poll(self, positions: Positions, max_records: int, max_bytes: int, timeout_s: float) -> FetchResult:
        """As `ShardLog.poll`. While no broker answers: empty if patient, else raises `Unreachable`."""
        try:
            consumer = self._connected()
            self._seek(consumer, positions)
            hungry = self._resume(consumer, positions)
            if hungry:
                # Fetch for the partitions without buffered records. Block only if no partition has any.
                for tp, records in consumer.fetch(timeout_s if len(hungry) == len(positions) else 0).items():
                    self._cursors[tp].ahead += records
            ready = self._ready(positions, max_records, max_bytes)
            behind = frozenset(tp for tp in positions if self._position(tp) < self._end(tp))
        except ClientError as error:
            self._failed(error)
            return FetchResult({}, frozenset())
        except Unreachable:
            if not self._patient:
                raise
            return FetchResult({}, frozenset())
        return FetchResult(ready, behind)

    def reached(self, positions: Positions) -> Positions:
        """As `ShardLog.reached`: a cursor's gap ends where the client would fetch next."""
        return {
            tp: max(position, self._position(tp))
            if self._consumer and self._floor(tp, position)
            else position
            for tp, position in positions.items()
        }

    def leaders(self, topics: Iterable[str]) -> dict[int | None, list[str]]:
        """By broker, those of `topics` of which it hands out records here; under None those nobody does."""
        nodes_by_topic: dict[str, set[int]] = {topic: set() for topic in topics}
        for tp in self._cursors:
            leader = self._consumer.leader(tp) if self._consumer is not None else None
            if tp[0] in nodes_by_topic and leader is not None:
                nodes_by_topic[tp[0]].add(leader)
        topics_by_node: dict[int | None, list[str]] = {}
        for topic, nodes in nodes_by_topic.items():
            leaders: set[int | None] = {*nodes} or {None}
            for node in leaders:
                topics_by_node.setdefault(node, []).append(topic)
        return topics_by_node

    def _floor(self, tp: TopicPartition, position: int) -> bool:
        """True if a cursor stands in the gap that begins at or before `position`."""
        cursor = self._cursors.get(tp)
        return cursor is not None and 0 <= cursor.floor <= position

    def read(self, run: Range) -> Iterator[Record]:
        """The records of a range, which must be retained whole and committed. Raises `Gone` when not."""
        tp = (run.topic, run.partition)
        if tp not in self._starts or run.next > self._ends[tp]:
            self.bounds(tp)
        # The start may have moved on since it was asked for: then the fetch itself raises `Gone`.
        if self._starts[tp] > run.first or self._ends[tp] < run.next:
            raise Gone(
                f"{run.topic}-{run.partition}: the offsets {run.first} to {run.next} are needed, "
                f"{self._starts[tp]} to {self._ends[tp]} are there"
            )
        return self.between(tp, run.first, run.next)

    def last(
        self, tp: TopicPartition, start: int, end: int, accepts: Callable[[Record], bool]
    ) -> Record | None:
        """The last wanted record of a partition in `start <= offset < end`, read back in growing windows:
        after many aborted transactions the last offsets hold no record at all.
        """
        window, upper = 8, end
        while upper > start:
            lower = max(start, end - window)
            last = None
            for record in self.between(tp, lower, upper):
                if accepts(record):
                    last = record
            if last is not None:
                return last
            window, upper = window * 2, lower
        return None

    def partitions(self, topic: str) -> int:
        """The number of partitions of a topic, 0 when there is none. Asks only for what is not known."""
        return ask(
            self._env,
            self._client.bootstrap,
            f"partitions of {topic}",
            lambda: self._connected().partitions(topic),
        )

    def bounds(self, tp: TopicPartition) -> tuple[int, int]:
        """The first retained offset and the last stable one of a partition, asked for now."""
        self._starts[tp], self._ends[tp] = bounds = ask(
            self._env,
            self._client.bootstrap,
            f"offsets of {tp[0]}-{tp[1]}",
            lambda: self._connected().bounds(tp),
        )
        return bounds

    def close(self) -> None:
        """Close the consumer; a later call makes a new one."""
        consumer, self._consumer = self._consumer, None
        self._cursors.clear()
        self._starts.clear()
        self._ends.clear()
        self._active = frozenset()
        if consumer is not None:
            consumer.close()

    def between(self, tp: TopicPartition, first: int, next_: int) -> Iterator[Record]:
        """The records at `first <= offset < next_`; done by position, since the last offsets may be gaps."""
        offset, until = first, self._env.monotonic() + CONNECT_S
        while offset < next_:
            records = self.poll({tp: offset}, min(next_ - offset, _BATCH), _NO_LIMIT, 0.02).records.get(
                tp, []
            )
            for index, record in enumerate(records):
                if record.offset >= next_:
                    self._put_back(tp, records[index:], next_)
                    return
                yield record
            before, offset = offset, records[-1].offset + 1 if records else max(offset, self._position(tp))
            if offset > before:
                until = self._env.monotonic() + CONNECT_S
            elif self._env.monotonic() > until:
                raise Unreachable(
                    f"Kafka at {self._client.bootstrap}: {tp[0]}-{tp[1]} gives nothing from offset {offset} "
                    f"on for {CONNECT_S:.0f} s, while {next_} is its known end. Check that its leader is up."
                )

    def _connected(self) -> Consumer:
        if self._consumer is None:
            connect_s = _AGAIN_S if self._patient else CONNECT_S
            self._consumer = self._client.consumer(wait_ms=self._wait_ms, connect_s=connect_s)
            self._patient = True
        return self._consumer

    def _seek(self, consumer: Consumer, positions: Positions) -> None:
        """Put every cursor asked for at its position."""
        fresh = [tp for tp in positions if tp not in self._cursors]
        if fresh:
            self._cursors.update({tp: _Cursor() for tp in fresh})
            consumer.assign(list(self._cursors))
            self._ends.update(consumer.ends(fresh))
        for tp, position in positions.items():
            cursor = self._cursors[tp]
            if not cursor.floor <= position <= self._position(tp):
                cursor.ahead.clear()
                consumer.seek(tp, position)
            cursor.floor = position
        if fresh:
            consumer.pause(fresh)

    def _resume(self, consumer: Consumer, positions: Positions) -> frozenset[TopicPartition]:
        """Let the client fetch for the partitions that are asked for and have nothing waiting here: so no
        partition's backlog hides another, and no more than one fetch of each is held.
        """
        hungry = frozenset(tp for tp in positions if not self._cursors[tp].ahead)
        if hungry != self._active:
            consumer.pause([*(self._active - hungry)])
            consumer.resume([*(hungry - self._active)])
            self._active = hungry
        return hungry

    def _ready(
        self, positions: Positions, max_records: int, max_bytes: int
    ) -> dict[TopicPartition, list[Record]]:
        """Take what waits for `positions` up to the limits: in equal shares, and one record at least."""
        ready: dict[TopicPartition, list[Record]] = {}
        left, room = max_records, max_bytes
        waiting = sorted((tp for tp in positions if self._cursors[tp].ahead), key=self._waiting)
        for index, tp in enumerate(waiting):
            cursor = self._cursors[tp]
            share = min(left, max(1, left // (len(waiting) - index)))
            count, room = _fitting(islice(cursor.ahead, share), room, at_least=0 if ready else 1)
            if count:
                ready[tp] = cursor.take(count)
                left -= count
        return ready

    def _waiting(self, tp: TopicPartition) -> int:
        return len(self._cursors[tp].ahead)

    def _put_back(self, tp: TopicPartition, records: list[Record], floor: int) -> None:
        cursor = self._cursors[tp]
        cursor.ahead[:0] = records
        cursor.floor = floor

    def _position(self, tp: TopicPartition) -> int:
        """The offset of the next record to hand out, or of the next to fetch."""
        cursor = self._cursors.get(tp)
        if cursor is None or self._consumer is None:
            return -1
        return cursor.ahead[0].offset if cursor.ahead else self._consumer.position(tp)

    def _end(self, tp: TopicPartition) -> int:
        """The newest end of the partition that any answer has told."""
        newest = self._consumer.known_end(tp) if self._consumer is not None else 0
        self._ends[tp] = max(self._ends.get(tp, 0), newest)
        return self._ends[tp]

    def _failed(self, error: ClientError) -> None:
        """Close the consumer (the next poll of one that raised may hang) and say what the error means."""
        self.close()
        if error.code == Code.OFFSET_OUT_OF_RANGE:
            raise Gone(f"no longer retained, or not there any more (partition: offset): {error}") from error
        if error.code in (Code.TRUNCATED, Code.CORRUPT_MESSAGE):
            raise Stop(f"Records that were committed are lost or damaged in Kafka: {error}") from error
        if is_denied(error) or not error.retriable:
            raise explained(self._client.bootstrap, "reading", error) from error


def _fitting(records: Iterable[Record], room: int, *, at_least: int) -> tuple[int, int]:
    """The number of records that fit into `room` bytes, or `at_least`, and the room that is left: below zero
    from the first record on that did not fit.
    """
    count = 0
    for record in records:
        room -= len(record.key or b"") + len(record.value or b"")
        if room < 0 and count >= at_least:
            break
        count += 1
    return count, room
