"""The protocol of a Kafka client, at the level where clients differ; everything else is written once.

A folder beside this file per client implements it (`kafka_python/`, `confluent/`), and no other file imports
that client. Of confluent-kafka only what is hot is taken: the consumer and the transactional producer.

Invariants of every client:
- No call waits longer than its timeout, or `CONNECT_S` where it has none.
- A call that fails raises `ClientError`, and no error of the client's own; only making a client raises what
  the user reads: `Unreachable` or `ConfigError`.
- Records are read committed, from where `seek` says. There is no automatic offset, commit or topic.
- What a producer appends is acknowledged by all in-sync replicas, in order, once (idempotence).
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple, Protocol

from streamlearn.core.records import Headers, Positions, Record, TopicPartition
from streamlearn.log.port import TopicSpec

CONNECT_S: Final = 12.0
"""How long a broker may take to answer, at start and for every question, before we give up."""

BATCH_BYTES: Final = 262144
FRAME_BYTES: Final = 128
"""Room for a batch's header and the lengths of a record's fields, within a topic's max.message.bytes."""

SESSION_MS: Final = 8000
HEARTBEAT_MS: Final = 1000
BUSY_MS: Final = 90_000
"""The longest time between two polls: `[transaction] max_ms`, at most 60 s of stepping, and a publish."""

EARLIEST: Final = -2
LATEST: Final = -1
"""In place of a timestamp, as in the protocol."""


class Code(IntEnum):
    """The numbers of Kafka's errors that something here depends on; those below 0 a client itself says."""

    TRUNCATED = -12
    NO_BROKER = -11
    NO_CODEC = -10
    NO_ANSWER = -1
    OFFSET_OUT_OF_RANGE = 1
    CORRUPT_MESSAGE = 2
    UNKNOWN_TOPIC = 3
    MESSAGE_TOO_LARGE = 10
    INVALID_TOPIC = 17
    RECORD_LIST_TOO_LARGE = 18
    TOPIC_DENIED = 29
    GROUP_DENIED = 30
    CLUSTER_DENIED = 31
    INVALID_TIMESTAMP = 32
    TOPIC_EXISTS = 36
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43
    POLICY_VIOLATION = 44
    INVALID_PRODUCER_EPOCH = 47
    TRANSACTIONAL_ID_DENIED = 53
    SASL_FAILED = 58
    TOKEN_DENIED = 65
    GROUP_NOT_FOUND = 69
    UNSUPPORTED_COMPRESSION = 76
    FENCED_INSTANCE = 82
    INVALID_RECORD = 87
    PRODUCER_FENCED = 90


class ClientError(Exception):
    """A call that a client could not do. Its text is the client's.

    `code` and `name` are Kafka's number and name of the error; `retriable`: trying again may help. `carried`:
    the errors that this one was made of; `topics`: those whose records were not acknowledged.
    """

    def __init__(
        self,
        text: str,
        code: int = Code.NO_ANSWER,
        name: str = "",
        *,
        retriable: bool = False,
        carried: Sequence["ClientError"] = (),
        topics: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(text)
        self.code = code
        self.name = name
        self.retriable = retriable
        self.carried = carried
        self.topics = topics

    def links(self) -> Iterator["ClientError"]:
        """This error and all that it was made of."""
        yield self
        for error in self.carried:
            yield from error.links()

    @property
    def fenced(self) -> bool:
        """True when it says that a newer producer has taken over."""
        return any(link.code in (Code.PRODUCER_FENCED, Code.INVALID_PRODUCER_EPOCH) for link in self.links())


class Row(Protocol):
    """The fields of a record to append: of an `Output`, or a `ProducerRecord`. Any of them may be null."""

    @property
    def key(self) -> bytes | None:
        """The key."""

    @property
    def value(self) -> bytes | None:
        """The value."""

    @property
    def headers(self) -> Headers:
        """Pairs of a name and a value."""


class Acknowledged(NamedTuple):
    """The offsets of the first and the last row that one flush sent to a partition."""

    first: int
    last: int


class Producer(Protocol):
    """One producer. After any error it is destroyed and never used again."""

    def append(self, partition: TopicPartition, rows: Sequence[Row]) -> None:
        """Put rows of one partition into the buffer, in order; they go out with the next flush."""

    def flush(self, timeout_s: float) -> dict[TopicPartition, Acknowledged]:
        """Return when all that was appended since the last flush is acknowledged, by partition."""

    def destroy(self) -> None:
        """Stop it so that it can send nothing more, whatever state it is in. Raises nothing."""


class PlainProducer(Producer, Protocol):
    """A producer without transactions."""

    def partition(self, topic: str, key: bytes | None, value: bytes | None) -> int:
        """The partition of a record by the client's own rule: by key, or spread evenly without one."""

    def partitions(self, topic: str) -> int:
        """The number of partitions of a topic."""


class TransactionalProducer(Producer, Protocol):
    """The producer of a transactional id."""

    owner: tuple[int, int]
    """Its producer id and epoch. An abort may have changed them."""

    def begin(self) -> None:
        """Begin a transaction, here only: nothing is sent."""

    def commit(self, timeout_s: float) -> None:
        """Commit. An error leaves it open whether that happened, as does an answer to a repeated request."""

    def abort(self, timeout_s: float) -> None:
        """Abort the open transaction."""


class Consumer(Protocol):
    """Reads by position, in no group. One that raised is closed."""

    def assign(self, places: Sequence[TopicPartition]) -> None:
        """Read these partitions from now on; those that it read before keep their places."""

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read a partition on from `offset`."""

    def pause(self, places: Sequence[TopicPartition]) -> None:
        """Fetch nothing for these partitions; what has been fetched may be kept."""

    def resume(self, places: Sequence[TopicPartition]) -> None:
        """Fetch for these partitions again."""

    def fetch(self, timeout_s: float) -> dict[TopicPartition, list[Record]]:
        """All that has been fetched, waiting up to `timeout_s` for the first record."""

    def position(self, partition: TopicPartition) -> int:
        """The next offset to fetch, past what holds no record; -1 when not known. Does not wait."""

    def known_end(self, partition: TopicPartition) -> int:
        """The end that the newest fetch told; 0 when not known. Does not wait."""

    def bounds(self, partition: TopicPartition) -> tuple[int, int]:
        """The first retained offset and the last stable one, asked for now."""

    def ends(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The last stable offset of each partition, asked for now."""

    def leader(self, partition: TopicPartition) -> int | None:
        """The broker that a partition is fetched from, as far as is known. Does not wait."""

    def partitions(self, topic: str) -> int:
        """The number of partitions of a topic, 0 when there is none. Asks only for what is not known."""

    def close(self) -> None:
        """Close it at once."""


class Membership(NamedTuple):
    """A member as the coordinator last described it. Times are of the monotonic clock, 0 before the first."""

    shards: frozenset[int]
    generation: tuple[int, str]
    stable: bool
    """A member of the newest generation that it knows of."""
    must_rejoin: bool
    asked_at_s: float
    granted_at_s: float
    """The last heartbeat that was sent, and the last that was granted."""
    replaced: bool
    """Another process has this static member's place."""


class Group(Protocol):
    """A membership in a consumer group whose members share the partitions of one topic, and read nothing."""

    session_s: float

    def join(self, timeout_s: float) -> None:
        """Let the client join, send heartbeats and learn its assignment, for at most `timeout_s`."""

    def held(self) -> Membership:
        """The coordinator's last word. Does not wait."""

    def partitions(self) -> int:
        """The number of partitions of the topic, so that a leader can assign them."""

    def report(self, positions: Positions, metadata: Mapping[TopicPartition, str]) -> None:
        """Begin to commit positions, each with its text. Does not wait."""

    def report_error(self) -> str:
        """The reason why a report failed since the last call; "" when none did."""

    def reported(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, str]]:
        """The positions that any member has committed, each with its text."""

    def leave(self, positions: Positions, metadata: Mapping[TopicPartition, str], timeout_s: float) -> str:
        """Commit a last time (where there are any), and leave; returns the member id, "" for none."""


class AdminClient(Protocol):
    """Questions to a cluster, and a few orders."""

    def topics(self, names: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Id and number of partitions of those that exist, Kafka's internal ones excluded."""

    def topic_names(self) -> list[str]:
        """The name of every topic, internal ones excluded."""

    def offsets(
        self, places: Sequence[TopicPartition], timestamp_ms: int, *, committed: bool
    ) -> dict[TopicPartition, int]:
        """Offsets by `EARLIEST`, `LATEST` or a timestamp in ms; -1 where no record is that young."""

    def settings(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        """All settings of each topic, also those that are defaults."""

    def owner(self, transactional_id: str) -> tuple[int, int]:
        """Producer id and epoch of who took a transactional id last."""

    def open_producers(self, partition: TopicPartition) -> list[tuple[int, int, int]]:
        """Producer id, epoch and first offset of each open transaction in a partition."""

    def members(self, group: str) -> int:
        """The number of members of a group now."""

    def ask_identities(self, topics: Sequence[str], broker: int | None) -> Any:
        """Begin to ask a broker (None: any) what topics are now. Does not wait."""

    def identities(self, question: Any) -> dict[str, tuple[str, int] | None]:
        """The answer to `ask_identities`: id and number of partitions, None for what does not exist."""

    def brokers(self) -> int:
        """The number of brokers of the cluster."""

    def create(self, spec: TopicSpec, replicas: int) -> None:
        """Make a topic."""

    def delete_before(self, partition: TopicPartition, offset: int) -> None:
        """Delete the records of a partition before `offset`."""

    def remove_member(self, group: str, replica: str, member_id: str) -> None:
        """Take a static member out of its group."""

    def close(self) -> None:
        """Close the connection."""


class Client(Protocol):
    """Makes the parts, each connected when it is returned. Raises `Unreachable`, `ConfigError`."""

    bootstrap: str
    versions: dict[str, str]
    """Its name in `[log] client` as `client`, and its `version`."""

    def admin(self) -> AdminClient:
        """Whom to ask."""

    def consumer(self, *, wait_ms: int, connect_s: float) -> Consumer:
        """A reader; a broker may hold a fetch back for `wait_ms` while there is nothing."""

    def group(self, group: str, replica: str, topic: str) -> Group:
        """A member of `group`, static with a `replica`, that wants partitions of `topic`."""

    def producer(self, *, linger_ms: int, batch_bytes: int) -> PlainProducer:
        """A producer without transactions. No batch is over `batch_bytes`, unless one record is."""

    def fence(
        self, transactional_id: str, topics: Sequence[str], *, batch_bytes: int, request_bytes: int
    ) -> TransactionalProducer:
        """The newest producer of an id: every earlier one is fenced, and its open transaction settled. It
        knows `topics` already, and makes no batch over `batch_bytes`. Raises `ClientError`, too.
        """
