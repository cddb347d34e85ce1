"""The log port: all that the service and the command line know of a backend.

Small protocols: `Reader` (what anybody may read), `Writer` (the lock of one shard), `ShardLog` (an owned
shard: its writer, and what its owner reads), `Log` (ownership and topics), `Admin` (a reader that also does
what the command line asks), and `CheckpointStore`. Each adapter passes the same conformance suite,
`tests/test_log_conformance.py`.

Invariants every adapter keeps:
- `publish` is all or nothing, and only the newest `open` of a shard can succeed with it: an older one
  raises `Fenced`. When the outcome cannot be known it raises `Unknown`; it never guesses.
- Reads see committed records only, in offset order within a partition.
- An adapter holds no position: the loop passes positions in.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from streamlearn.core.journal import Entry, Unfinished
from streamlearn.core.records import Headers, Output, Positions, Range, Record, RecordPlace, TopicPartition
from streamlearn.errors import Fenced, NotOwner

LOOK_BACK: Final = 10_000
"""So many offsets back, at most, `ShardLog.newest` looks."""


class FetchResult(NamedTuple):
    """Records by partition, in offset order; `behind`: asked-for partitions with more known to wait."""

    records: dict[TopicPartition, list[Record]]
    behind: frozenset[TopicPartition]


class TopicInfo(NamedTuple):
    """`id` changes when a topic is deleted and made again. One start and end offset per partition:
    the first retained offset, and the offset the next committed record can have at the earliest.
    """

    id: str
    start: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def partitions(self) -> int:
        """The number of partitions."""
        return len(self.end)


class TopicSpec(NamedTuple):
    """A topic to create: settings in Kafka's own names (`cleanup.policy`, ...)."""

    name: str
    partitions: int
    settings: Mapping[str, str] = {}


class TopicNames(NamedTuple):
    """App and topics of a service's connection. `roles` maps an output's role (`predictions`, `dlq`,
    `journal`, `checkpoints`) to its topic, and `control` to that of commands, which is read. `replica` is
    the static membership, "" for none; `labels` the topic of labels, "" for none.
    """

    app: str
    replica: str
    inputs: tuple[str, ...]
    roles: Mapping[str, str]
    labels: str = ""

    @property
    def lock(self) -> str:
        """The name of the group and, with the shard, of the transactional id. It is the journal's, because
        the journal is what two owners would destroy: whoever writes to one must meet in one lock.
        """
        return f"streamlearn.{self.roles['journal']}"

    @property
    def sources(self) -> tuple[str, ...]:
        """The topics a shard reads: the inputs, and the labels and commands where there are any."""
        others = (self.labels, self.roles.get("control", ""))
        return (*self.inputs, *(topic for topic in others if topic))


class ProducerRecord(NamedTuple):
    """A record to append. `partition` None: by key, or spread evenly without a key."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


class History(Protocol):
    """Records, read again."""

    def read(self, run: Range) -> Iterator[Record]:
        """The records of a journalled range, in order. Raises `Gone` when it is not retained whole."""


class Reader(History, Protocol):
    """Reads what anybody may, and fences nobody.

    Reading is not owning: the end of a journal that a reader finds may not be the end any more, and proves
    nothing about who holds the shard.
    """

    def topics(self, names: Iterable[str]) -> dict[str, TopicInfo]:
        """The topics of `names` that exist, by name.

        Other topics are not asked about: a cluster may have thousands, made, deleted and broken by people who
        never heard of us.
        """

    def topic_names(self) -> list[str]:
        """The name of every topic, internal ones of the backend excluded: for a message to a user who named a
        topic that does not exist.
        """

    def offsets_at(self, topic: str, timestamp_ms: int) -> tuple[int, ...]:
        """As `Log.offsets_at`."""

    def poll(self, positions: Positions, max_records: int, timeout_s: float) -> FetchResult:
        """As `ShardLog.poll`."""

    def end(self, journal: TopicPartition) -> Entry | None:
        """The last committed entry of a journal, as far as it can be read now; None in an empty journal."""

    def entries(self, journal: TopicPartition, after: int) -> Iterator[Entry]:
        """Committed entries with `seq > after`, in order, up to the end as it is now; claims are passed over.

        Raises:
            Gone: Entry `after + 1` is no longer retained.
            Stop: A record of the journal is no entry.
        """

    def close(self) -> None:
        """Let go of the backend."""


class Writer(Protocol):
    """The lock of one shard, taken by `Log.open`, which has fenced every earlier writer. Only afterwards is
    the journal's end read.
    """

    claim: int
    """A number that only this ownership of the shard has: it grows with each."""

    end: Entry | None
    """The last committed entry of the journal when the shard was opened; None in an empty journal."""

    seen: Positions
    """Input positions an owner once reported after a commit (group offsets): a witness only."""

    unfinished: Unfinished
    """What earlier owners began after `end`, as the journal tells it when the shard was opened."""

    def publish(self, entry: Entry, outputs: Sequence[Output], positions: Positions) -> None:
        """Commit `outputs` and `entry` together, all or nothing.

        Args:
            entry: The journal's entry of this transaction.
            outputs: The records to publish, in order.
            positions: Input positions after the entry: reported for lag tools some time later, outside the
                transaction.

        Raises:
            Fenced: A newer owner has opened the shard; nothing was written.
            Unknown: Nobody can say yet if the transaction was committed.
            Stop: Nothing was written, and trying again would not help (a full disk, a record over the limit).
        """

    def attempt(self, record_place: RecordPlace) -> None:
        """Note in the journal that this record, by itself, is stepped next.

        If the record kills the process, the next owner finds it in `unfinished`. Durable when it returns.
        Raises as `publish` does.
        """

    def release(self) -> None:
        """Note in the journal that this owner ends in order, so that the next owner's `unfinished` is empty.

        Call it before `close` where no entry was published. Raises as `publish` does.
        """

    def newer_owner(self) -> str:
        """The process that has opened the shard since, in words; "" only when it is proven that none has.

        A conclusion from the journal or the store is worth something only when this is "".

        Raises:
            ConfigError: This principal may not ask.
        """

    def sync(self) -> None:
        """Return when everything published so far survives a power cut."""

    def trim(self, seq: int) -> None:
        """Entries before `seq` are no longer needed: forget them when convenient."""

    def close(self) -> None:
        """Let go of the shard without committing anything."""


class ShardLog(Writer, History, Protocol):
    """One owned shard: its writer, and the reads of its owner."""

    def entries(self, after: int) -> Iterator[Entry]:
        """Committed entries with `seq > after`, in order, up to the end.

        Raises:
            Gone: Entry `after + 1` is no longer retained.
        """

    def first_seq(self) -> int:
        """The number of the oldest entry that is retained; 0 in an empty journal."""

    def newest(self, role: str, since: Mapping[int, int], accepts: Callable[[Record], bool]) -> list[Record]:
        """The newest committed record of each partition of an output topic for which `accepts` is true.

        Args:
            role: The output's role.
            since: The first offset to look at, by partition; the topic's first where it is not named.
            accepts: The condition.

        Returns:
            At most one record for each partition; the look back is at most `LOOK_BACK` offsets long.
        """

    def ask_sources(self) -> None:
        """Begin to ask for the identity of the input topics; `sources` has the answer. Does not wait."""

    def sources(self) -> dict[str, tuple[str, int]]:
        """Id and number of partitions of each input topic that exists, by name.

        The answer was given after the last call of `ask_sources`, by the brokers that had handed out the
        records polled before that call.
        """

    def poll(self, positions: Positions, max_records: int, max_bytes: int, timeout_s: float) -> FetchResult:
        """Committed records at `positions`, in offset order within each partition.

        Args:
            positions: The next offset of each partition to read; no other partition is read.
            max_records, max_bytes: Limits of one call, in records and in bytes.
            timeout_s: Seconds to wait for the first record.

        Raises:
            Gone: A position is no longer retained.
        """

    def reached(self, positions: Positions) -> Positions:
        """`positions`, from which everything polled was taken, moved on over offsets that are known to hold
        no record (marks of transactions, aborted data): their retention is then no loss.
        """


class Log(Protocol):
    """A connection of one service process to the log: the election, the lock, and questions about topics."""

    def owned(self, timeout_s: float) -> frozenset[int]:
        """The shards that this process should hold now; also the heartbeat, so call it often.

        A level and not an event, and a hint only: the lock is checked by `Writer.publish`.
        """

    def lost(self) -> Fenced | NotOwner:
        """The error to raise when `owned` no longer tells a shard that was held: it says why."""

    def open(self, shard: int) -> ShardLog:
        """Fence the previous owner of a shard, settle its open transaction, then read the journal's end."""

    def others(self) -> int:
        """The number of members of the election now, for a process that has not called `owned` yet. 0 where a
        newcomer is meant to take over at once, -1 where nobody may know.
        """

    def retire(self, shard: int) -> None:
        """Fence whoever holds the shard or is paused, and keep no input for its journal any more: it ends."""

    def retention_s(self) -> dict[str, float]:
        """The seconds for which records of each input topic are kept at least; infinite where for ever."""

    def tell(self, value: bytes) -> None:
        """Append to the topic of alerts, outside of any transaction: what a process says of itself. Raises
        `Unreachable`.
        """

    def members(self) -> int:
        """The number of processes that hold the shard or stand by now, on any backend."""

    def topics(self) -> dict[str, TopicInfo]:
        """Every topic of the configuration that exists."""

    def hidden_outputs(self) -> dict[TopicPartition, int]:
        """Partitions of outputs whose end readers of committed records cannot see, because a transaction
        is open there now, with the offset at which they stand.
        """

    def open_transactions(self, tp: TopicPartition) -> str:
        """A sentence that names who holds a transaction open in a partition."""

    def record_limit(self, role: str) -> int | None:
        """The bytes of key, value and headers (`core.records.headers_bytes`) that the topic of `role` takes
        in a record; None where the log sets no limit.
        """

    def offsets_at(self, topic: str, timestamp_ms: int) -> tuple[int, ...]:
        """Per partition, the first offset whose record timestamp is `>= timestamp_ms` (else the end)."""

    def close(self) -> None:
        """Leave the election at once, so that another replica need not wait."""


class Admin(Reader, Protocol):
    """A reader that also carries out orders of the command line: not transactional, durable on return."""

    def settings(self, topic: str) -> dict[str, str]:
        """The settings of a topic, in Kafka's names; embedded keeps those given at creation."""

    def create(self, specs: Sequence[TopicSpec]) -> None:
        """Make topics that do not exist."""

    def append(self, topic: str, records: Sequence[ProducerRecord]) -> None:
        """Append records with arrival time now; return when all are durable, raise when any is not."""


class Written(NamedTuple):
    """A blob that is durable. `where` is the store's own note of its place; `sha256` in hex. `left`: what was
    to be forgotten and may still be there.
    """

    name: str
    where: str
    size: int
    sha256: str
    left: Mapping[str, str]


class Blobs(Protocol):
    """Named bytes, as one backend keeps them. A call returns when it is done, however long that takes."""

    def names(self) -> list[str]:
        """The blobs that are there, by name. One whose writer died may be there in part."""

    def read(self, name: str, where: str = "") -> bytes:
        """The bytes of one; `where` as `write` returned it, if that is known. Raises `BadCheckpoint` when it
        is missing or not whole.
        """

    def write(self, name: str, data: bytes | bytearray) -> str:
        """Durable when it returns; nobody else uses this name. Returns `where`: what helps to find it
        again.
        """

    def forget(self, blobs: Mapping[str, str]) -> None:
        """Delete these, each with its `where` ("" if unknown). One that is not there is no error."""

    def close(self) -> None:
        """Let go of the backend."""


class CheckpointStore(Protocol):
    """Where one shard's checkpoints live, as named bytes. Nothing in it says which of them count: the journal
    does. A write goes on beside its caller.
    """

    def names(self) -> list[str]:
        """As `Blobs.names`."""

    def read(self, name: str, where: str = "") -> bytes:
        """As `Blobs.read`."""

    def begin(self, name: str, data: Callable[[], bytes | bytearray], forget: Mapping[str, str]) -> None:
        """Begin to write what `data` returns under `name`, then to forget what is named in `forget`; does not
        wait. `data` is called in the thread that writes. One at a time.
        """

    def finished(self) -> Written | None:
        """The end of the write that was begun last, told once; None while it goes on, or when there is none.
        Raises what ended it.
        """

    def is_busy(self) -> bool:
        """True while a write goes on."""

    def wait(self) -> None:
        """Return when no write goes on."""

    def close(self) -> None:
        """Let go of the backend."""
