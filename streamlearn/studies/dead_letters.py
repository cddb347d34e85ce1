"""Dead letters: read them back, choose among them, and make the records to send again.

Invariants:
- A retried record is the refused one: its bytes, its own headers in their order, to the topic and, where it
  exists, the partition it came from. It carries two headers of ours instead of the reasons:
  `streamlearn.retries` counts, and `streamlearn.letter` names the letter it was made from.
- A producer may have sent headers with any of these names. In a letter, ours begin at the last
  `__connect.errors.topic`; in a record, only the two that stand first are ours, and only when both are sound.
- A record is retried at most `retries_max` times. A letter is sent once, whatever becomes of a call: whether
  it was is read from the topic it goes to.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import orjson

from streamlearn.core.records import Headers, Record
from streamlearn.history import topic_reader
from streamlearn.history.formats.record_json import line
from streamlearn.log.port import Admin, ProducerRecord

RETRIES: Final = "streamlearn.retries"
MADE_FROM: Final = "streamlearn.letter"
_PREFIX: Final = "__connect.errors."
_FIRST: Final = f"{_PREFIX}topic"
"""The first of the headers that `core.shard.encode.dead_letter` adds to the record's own."""

_CLASS: Final = "streamlearn."
_COUNT_DIGITS: Final = 9


class Letter(NamedTuple):
    """A dead letter, taken apart. `topic`, `partition` and `offset` are those of the refused record."""

    record: Record
    topic: str
    partition: int
    offset: int
    stage: str
    reason: str
    message: str
    feature: str
    retries: int
    truncated: bool

    @property
    def place(self) -> str:
        """The letter's own place, as `dlq show` takes it: PARTITION:OFFSET."""
        return f"{self.record.partition}:{self.record.offset}"

    @property
    def name(self) -> str:
        """The letter among all letters: DLQ-PARTITION-OFFSET."""
        return f"{self.record.topic}-{self.record.partition}-{self.record.offset}"


def parse_letter(record: Record) -> Letter | None:
    """The letter in a record of a dlq topic; None when streamlearn did not write it."""
    ours = record.headers[_ours_from(record.headers) :]
    texts = {name: (value or b"").decode("utf-8", "backslashreplace") for name, value in ours}
    try:
        partition = int(texts[f"{_PREFIX}partition"])
        offset = int(texts[f"{_PREFIX}offset"])
        name = texts[f"{_PREFIX}exception.class.name"]
        return Letter(
            record,
            texts[_FIRST],
            partition,
            offset,
            texts["streamlearn.stage"],
            name.removeprefix(_CLASS),
            texts[f"{_PREFIX}exception.message"],
            texts.get("streamlearn.feature", ""),
            _marks(record.headers)[0],
            "streamlearn.truncated" in texts or name == f"{_CLASS}unreadable",
        )
    except (KeyError, ValueError):
        return None


def _ours_from(headers: Headers) -> int:
    """Index of the first header that made a dead letter of a record; after all of them when none did."""
    return max((n for n, (name, _) in enumerate(headers) if name == _FIRST), default=len(headers))


def _marks(headers: Headers) -> tuple[int, str]:
    """The number of a record's retries, and the name of the letter it was made from: by the two headers at
    the front; 0 and "" for a record that no retry has made.
    """
    match headers[:2]:
        case ((name, count), (second, letter)) if name == RETRIES and second == MADE_FROM:
            if count and letter and count.isdigit() and len(count) <= _COUNT_DIGITS:
                return int(count), letter.decode("utf-8", "backslashreplace")
    return 0, ""


class LetterFilter(NamedTuple):
    """A filter: "" takes everything. `reason` is that of the list, or `stage.reason`."""

    reason: str = ""
    stage: str = ""
    feature: str = ""

    def takes(self, letter: Letter) -> bool:
        """True if a letter passes."""
        return (
            self.reason in ("", letter.reason, f"{letter.stage}.{letter.reason}")
            and self.stage in ("", letter.stage)
            and self.feature in ("", letter.feature)
        )


class LetterGroup(msgspec.Struct):
    """The letters of one stage, reason, feature and topic: how many, and when the first and last came."""

    stage: str
    reason: str
    feature: str
    topic: str
    count: int
    first_ms: int
    last_ms: int
    example: str
    message: str


def groups(letters: Iterable[Letter]) -> list[LetterGroup]:
    """The letters counted by what is wrong with them, commonest first."""
    by_key: dict[tuple[str, str, str, str], LetterGroup] = {}
    for letter in letters:
        key = (letter.stage, letter.reason, letter.feature, letter.topic)
        when_ms = letter.record.timestamp_ms
        group = by_key.get(key)
        if group is None:
            group = by_key[key] = LetterGroup(*key, 0, when_ms, when_ms, letter.place, letter.message)
        group.count += 1
        group.first_ms = min(group.first_ms, when_ms)
        group.last_ms = max(group.last_ms, when_ms)
    return [group for _, group in sorted(by_key.items(), key=lambda item: (-item[1].count, item[0]))]


def retry_record(letter: Letter, partitions: int) -> ProducerRecord:
    """The refused record, to be appended to its topic again."""
    headers = letter.record.headers
    own = headers[2 if _marks(headers)[1] else 0 : _ours_from(headers)]
    # First, because what is passed on to a dead letter is cut from the end.
    marks: Headers = ((RETRIES, b"%d" % (letter.retries + 1)), (MADE_FROM, letter.name.encode()))
    partition = letter.partition if letter.partition < partitions else None
    return ProducerRecord(letter.record.key, letter.record.value, marks + own, partition)


def sent_before(admin: Admin, letters: Sequence[Letter]) -> set[str]:
    """The names of letters that were sent again earlier: read from their topics, since the oldest letter."""
    names: set[str] = set()
    existing = admin.topics({letter.topic for letter in letters})
    for topic in sorted(existing):
        oldest_ms = min(letter.record.timestamp_ms for letter in letters if letter.topic == topic)
        first, end = admin.offsets_at(topic, oldest_ms), existing[topic].end
        for record in topic_reader.between(admin, topic, first, end):
            names.add(_marks(record.headers)[1])
    return names


class RetryPlan(NamedTuple):
    """The records to send again, by topic, and the numbers of letters that are not, by `NOT_RETRIED`."""

    records: dict[str, list[ProducerRecord]]
    left: dict[str, int]


NOT_RETRIED: Final = {
    "already": "were sent back by an earlier call",
    "retries_exhausted": "have been retried {retries_max} times already ([dlq] retries_max)",
    "truncated": "were too large to be kept whole",
    "topic_missing": "come from a topic that is gone",
}


def plan_retry(admin: Admin, letters: Sequence[Letter], retries_max: int) -> RetryPlan:
    """Sort letters into what can be sent again and what cannot, and why."""
    before = sent_before(admin, letters)
    existing = admin.topics({letter.topic for letter in letters})
    plan = RetryPlan({}, dict.fromkeys(NOT_RETRIED, 0))
    for letter in letters:
        if letter.name in before:
            plan.left["already"] += 1
        elif letter.truncated:
            plan.left["truncated"] += 1
        elif letter.retries >= retries_max:
            plan.left["retries_exhausted"] += 1
        elif letter.topic not in existing:
            plan.left["topic_missing"] += 1
        else:
            again = retry_record(letter, existing[letter.topic].partitions)
            plan.records.setdefault(letter.topic, []).append(again)
    return plan


def described(letter: Letter) -> dict[str, Any]:
    """All about a letter, to be shown: bytes as text where they are UTF-8, else in base64."""
    whole: dict[str, Any] = orjson.loads(line(letter.record))
    return {
        "place": letter.place,
        "stage": letter.stage,
        "reason": letter.reason,
        "message": letter.message,
        "feature": letter.feature,
        "retries": letter.retries,
        "source": {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset},
        "arrived_ms": letter.record.timestamp_ms,
        **{name: value for name, value in whole.items() if name[:3] in ("key", "val")},
        "headers": whole["headers"],
    }
