"""Refusals to expect: a sample is stepped by the very shard, with the proposed `[event]`.

The model is the cheapest of its task: nothing of what is refused depends on it, but the kind of its labels.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from river import dummy, stats

from streamlearn.config.schema import EventSection
from streamlearn.core.events.event import REASONS, EventSpec
from streamlearn.core.model.learner import Learner
from streamlearn.core.records import Record
from streamlearn.core.shard.encode import MAX_NAME_CHARS
from streamlearn.core.shard.facts import Refused
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.state import Memory, ShardSpec
from streamlearn.core.shard.work import Failure
from streamlearn.engine.driver import ShardDriver
from streamlearn.engine.era import event_rules
from streamlearn.errors import ConfigError
from streamlearn.history import sources
from streamlearn.history.formats.column_mapping import ColumnMapping
from streamlearn.studies.look.sampling import Sample

UNDATED_MS = 4_102_444_800_000
"""When a record of a file has arrived: after every event, so that none lies in the future."""

_SHOWN_BYTES = 60


def refusals(spec: EventSpec, records: Iterable[Record], classes: bool) -> list[str]:
    """A sentence for each kind of refusal, the commonest first. `classes`: labels are classes."""
    model = dummy.NoChangeClassifier() if classes else dummy.StatisticRegressor(stats.Mean())
    driver = ShardDriver(Shard(ShardSpec("look", "", 1, event=spec), Learner(model), Memory()))
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], Record] = {}
    total = 0
    for record in records:
        total += 1
        facts = driver.step(record)
        if isinstance(facts, Failure):  # no registry is asked
            continue
        for fact in facts:
            if isinstance(fact, Refused):
                kind = fact.reason, fact.feature[:MAX_NAME_CHARS]
                counts[kind] += 1
                examples.setdefault(kind, record)
    return [_sentence(kind, count, total, examples[kind]) for kind, count in counts.most_common()]


def _sentence(kind: tuple[str, str], count: int, total: int, record: Record) -> str:
    reason, feature = kind
    value = (record.value or b"")[:_SHOWN_BYTES].decode("utf-8", "replace")
    value = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in value)
    value += "..." if len(record.value or b"") > _SHOWN_BYTES else ""
    about = f", {feature!r}" if feature else ""
    return (
        f"{count:,} of {total:,} would be refused with this ({reason}{about}), the first is number"
        f" {record.offset:,}, {value}: {REASONS[reason]}"
    )


def rehearse_records(event: dict[str, Any], records: Sequence[Record], classes: bool) -> list[str]:
    """The refusals among records as they stand."""
    undated = (
        record
        if record.timestamp_ms > 0
        else msgspec.structs.replace(record, topic="look", timestamp_ms=UNDATED_MS)
        for record in records
    )
    return refusals(event_rules(EventSection(**event)), undated, classes)


def rehearse_table(sample: Sample, columns: ColumnMapping, classes: bool) -> list[str]:
    """The refusals among rows of a table, read as proposed, or where it could not be read."""
    assert sample.read_options is not None
    options = sample.read_options._replace(columns=columns)
    try:
        items = sources.limited(sources.open_source(sample.name, options).items(), sample.size)
        rows = [
            Record("look", 0, item.number, UNDATED_MS, item.row.key, item.row.value) for item in items if item
        ]
    except ConfigError as error:
        return [f"reading it as proposed ends with: {error}"]
    return refusals(EventSpec(), rows, classes)
