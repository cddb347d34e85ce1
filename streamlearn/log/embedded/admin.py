"""Orders of the command line to an embedded file.

Invariant: what a call did is durable when it returns, and any number of processes may work on one file.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from zlib import crc32

from streamlearn.core.journal import Entry
from streamlearn.core.records import Positions, Range, Record, TopicPartition
from streamlearn.env import Env
from streamlearn.errors import ConfigError
from streamlearn.log.embedded.file import LogFile
from streamlearn.log.embedded.journal import entries_after, last_entry
from streamlearn.log.embedded.topics import TopicTables
from streamlearn.log.port import FetchResult, ProducerRecord, TopicInfo, TopicSpec

_POLL_BYTES = 1 << 24


class EmbeddedAdmin:
    """`Admin` on the SQLite file at `path`, which is made when it is missing. Any number of processes."""

    def __init__(self, env: Env, path: str | Path) -> None:
        self._file = LogFile(env, path, durable=True)
        self._topics = TopicTables(self._file)

    def topics(self, names: Iterable[str]) -> dict[str, TopicInfo]:
        """As `Admin.topics`."""
        chosen = set(names)
        return {name: info for name, info in self._topics.topics().items() if name in chosen}

    def topic_names(self) -> list[str]:
        """As `Admin.topic_names`."""
        return list(self._topics.topics())

    def settings(self, topic: str) -> dict[str, str]:
        """The settings given when the topic was made."""
        settings = self._topics.settings().get(topic)
        if settings is None:
            raise ConfigError(f"{self._file.path} has no topic {topic!r}")
        return settings

    def create(self, specs: Sequence[TopicSpec]) -> None:
        """Make topics that do not exist."""
        self._topics.create(specs)

    def append(self, topic: str, records: Sequence[ProducerRecord]) -> None:
        """Append records in one transaction, all or nothing, durable when it returns."""
        with self._file.transaction():
            count = self._topics.number(topic)[1]
            # Without a key records take turns, going on from where the last writer of any process ended.
            turn = sum(self._topics.bounds(topic, partition)[1] for partition in range(count))
            placed: dict[int, list[ProducerRecord]] = {}
            for record in records:
                partition = record.partition
                if partition is None and record.key is not None:
                    partition = crc32(record.key) % count
                elif partition is None:
                    partition = turn % count
                    turn += 1
                placed.setdefault(partition, []).append(record)
            for partition, partition_records in placed.items():
                self._topics.insert(topic, partition, partition_records)

    def poll(self, positions: Positions, max_records: int, timeout_s: float) -> FetchResult:
        """As `ShardLog.poll`."""
        return self._topics.poll(positions, max_records, _POLL_BYTES, timeout_s)

    def read(self, run: Range) -> Iterator[Record]:
        """As `Reader.read`."""
        return self._topics.read(run)

    def end(self, journal: TopicPartition) -> Entry | None:
        """As `Reader.end`."""
        with self._file.snapshot():
            return last_entry(self._topics, journal)

    def entries(self, journal: TopicPartition, after: int) -> Iterator[Entry]:
        """As `Reader.entries`."""
        return entries_after(self._topics, journal, after)

    def offsets_at(self, topic: str, timestamp_ms: int) -> tuple[int, ...]:
        """As `Log.offsets_at`."""
        return self._topics.offsets_at(topic, timestamp_ms)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
