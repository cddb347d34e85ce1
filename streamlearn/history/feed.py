"""A source of the past as the records that a shard would have read, without a log between.

Invariants:
- Events are records of `EVENTS`' topic in the source's order, offsets counted from 0; those of a topic keep
  their partition and offset. Labels that come late are records of the labels topic, by event time.
- An event has arrived at its event time, where the source knows it, else now, the same moment for all; a
  label now, so that none seems to come before the time at which it says it was known.
"""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from streamlearn.core.events.event import EventSpec
from streamlearn.core.labels.record import LabelSpec
from streamlearn.core.records import Record, TopicPartition
from streamlearn.core.shard.state import ShardSpec
from streamlearn.history.label_delay import Delay, schedule
from streamlearn.history.sources import ReadOptions, Source, source_format


class Feed(NamedTuple):
    """Records to read: the source, when its labels follow (None: they are inside the events), at most how
    many events, and when those without a time have arrived.
    """

    source: Source
    options: ReadOptions
    delay: Delay | None
    limit: int | None
    undated_ms: int

    @property
    def topic(self) -> str:
        """Name of the records' topic: the topic's own, else the source's."""
        name = self.source.name
        return name.removeprefix("topic:").partition("@")[0] if name.startswith("topic:") else name

    @property
    def labels(self) -> str:
        """Name of the labels' topic."""
        return f"{self.topic}.labels"

    @property
    def total(self) -> int | None:
        """Number of events to come, None when unknown."""
        return min((count for count in (self.source.total, self.limit) if count is not None), default=None)

    def spec(self, configured: ShardSpec) -> ShardSpec:
        """The rules of a shard that reads this feed: events as they come, labels as `late` sends them.
        Where the configuration has no labels topic, they are waited for as long as it takes.
        """
        event, labels = event_rules(configured.event, self.source), configured.labels
        if self.delay is not None:
            labels = labels or LabelSpec(topic="", ttl_ms=_FOR_EVER_MS)
            labels = msgspec.structs.replace(
                labels,
                join="group" if self.delay.group else "id",
                id="id",
                group="group",
                label="label",
                time="ts",
            )
            if self.delay.group:
                group = "group" if self.source.tabular else event.group or self.delay.group
                event = msgspec.structs.replace(event, group=group)
        if labels is not None:
            labels = msgspec.structs.replace(labels, topic=self.labels)
        return msgspec.structs.replace(configured, event=event, labels=labels, control="")

    def records(self) -> Iterator[Record | None]:
        """The records in order; None where nothing more has arrived yet, as on a slow pipe."""
        now_ms = self.undated_ms
        from_topic = self.source.name.startswith("topic:")
        next_offsets: dict[TopicPartition, int] = {}
        for scheduled in schedule(self.source, self.options, self.delay, self.limit):
            if scheduled is None:
                yield None
                continue
            (row, time_s, _, number), is_label = scheduled
            partition = self.labels if is_label else self.topic, row.partition or 0
            offset = number if from_topic and not is_label else next_offsets.get(partition, 0)
            next_offsets[partition] = offset + 1
            arrived_ms = now_ms if time_s is None else int(time_s * 1000)
            if is_label:
                arrived_ms = max(arrived_ms, now_ms)
            yield Record(*partition, offset, arrived_ms, row.key, row.value, row.headers)


def event_rules(configured: EventSpec, source: Source) -> EventSpec:
    """Rules for the source's events: those made from columns, pairs or river's data sets have the plain
    envelope, whatever shape the service reads; all others are as configured.
    """
    name = source.name
    if not source.tabular and (name.startswith("topic:") or source_format(name) not in _ENVELOPES):
        return configured
    return EventSpec(
        time_unit=configured.time_unit,
        types=configured.types,
        time_as=configured.time_as,
        duplicates=configured.duplicates,
    )


_FOR_EVER_MS = 1e15
_ENVELOPES = ("river", "python")
